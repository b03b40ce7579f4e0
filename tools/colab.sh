#!/usr/bin/env bash
# Inside Colab's runtime image: every notebook as a reader there meets it, alone in an empty folder, installing segtutor
# with its own first cell. The commit under test, at REPOSITORY, stands where the public address would be.
set -euo pipefail
repository=$1
kept() { python3 -m pip list --format=freeze | grep -E "^(torch|torchvision|numpy)=" | sort; }

git config --global --add safe.directory "$repository"
folder=$(mktemp -d)
cp "$repository"/notebooks/*.ipynb "$folder"
cd "$folder"
sed -i "s#git+https://github.com/[^\"\\\\]*#git+file://$repository#" ./*.ipynb
before=$(kept)
for notebook in ./*.ipynb; do
  echo "$notebook"
  python3 -m pip uninstall --quiet --yes segtutor
  python3 -m jupyter execute --timeout=900 "$notebook"
done
if [ "$before" != "$(kept)" ]; then
  echo "The install cell replaced what Colab ships: $before is now $(kept)"
  exit 1
fi
