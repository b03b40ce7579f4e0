"""The experiments of the book, one file per chapter; `segtutor.lab.harness` finds them by themselves."""
