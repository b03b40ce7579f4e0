"""The ledger of claims: what is said about these networks, and the verdict that the book came to.

A claim's ``verdict`` and ``sentence`` are written by hand, once its rows are there; the numbers in the sentence are
filled in from the measured rows, and ``checks`` ties the verdict to them. A claim whose rows are missing reads "not
yet measured", whatever its verdict says. ``segtutor claims --write`` turns the ledger into ``book/claims.md``.

To settle a claim, measure its rows, then fill the last fields of its entry below:

    Claim("FCN-2", "...", "03_fcn", doubtful=False,
          verdict=CONFIRMED,
          sentence="Boundary mIoU rises from {FCN-2/fcn32s/boundary_miou:.3f} to {FCN-2/fcn8s/boundary_miou:.3f}.",
          conditions="CamVid, 120x160, 3 seeds",
          checks=("FCN-2/fcn8s/boundary_miou > FCN-2/fcn32s/boundary_miou",))

A field in braces is the id of a row (its mean over seeds), followed by a format; ``@spread``, ``@low``, ``@high`` and
``@n`` after the id give the spread over seeds and the number of them; ``{a over b:.2f}`` and ``{a minus b:.3f}``
combine two; ``{papers/fcn/parameters_fcn8s:,}`` is a published fact. Checks compare such expressions with each other
or with numbers.

A verdict on accuracy needs more than checks: `Comparison`s of converged networks on two data sets. Without them it is
"depends", or "open", and then ``missing`` says what would settle it.
"""

from dataclasses import dataclass

CONFIRMED = "confirmed"
REFUTED = "refuted"
DEPENDS = "depends"
OPEN = "open"  # measured, but not well enough for a verdict
NOT_YET = "not yet measured"
WAITS = "waits for a GPU"
VERDICTS = (CONFIRMED, REFUTED, DEPENDS, OPEN, NOT_YET, WAITS)

# The rows of the compatibility matrix; the factory's own list may not be imported here, and a test compares the two.
BACKBONES = (
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *("resnetv2_50", "resnetv2_101", "mobilenetv2", "ghostnet", "vovnet27", "vovnet39", "vovnet57"),
    *(f"efficientnet-lite{number}" for number in range(3)),
    *(f"convnext-{size}" for size in ("tiny", "small", "base", "large", "xlarge")),
    *(f"mit-b{number}" for number in range(6)),
)


class ClaimError(ValueError):
    """A claim is unknown, badly written, or contradicted by its own rows."""


@dataclass(frozen=True)
class Comparison:
    """Two networks of the shoot-out, of which one is said to score higher on every data set.

    Args:
        better: Its name in the protocols, e.g. ``"fcn16s"``.
        worse: The other one.
        metric: The score that is compared: ``"miou"`` or ``"boundary_miou"``.
        data: The protocols that both were trained under.
    """

    better: str
    worse: str
    metric: str = "miou"
    data: tuple[str, ...] = ("street", "tissue")


@dataclass(frozen=True)
class Claim:
    """One claim of the ledger.

    Args:
        id: Its name, e.g. ``"FCN-2"``.
        statement: What is said, as its supporters would say it.
        chapter: The chapter that measures it, by its notebook's name.
        doubtful: Whether it is repeated in popular articles although it may be wrong as it stands.
        verdict: One of ``VERDICTS``.
        sentence: What was measured; numbers are fields, filled from the rows.
        conditions: Data, size, steps and seeds, in a few words.
        checks: Comparisons that must hold for the verdict to stand.
        comparisons: What a verdict on accuracy rests on.
        missing: Of an open claim: what would settle it.
    """

    id: str
    statement: str
    chapter: str
    doubtful: bool = False
    verdict: str = NOT_YET
    sentence: str = ""
    conditions: str = ""
    checks: tuple[str, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    missing: str = ""


CLAIMS = (
    # ------------------------------------------------------------------------------------------ 00_what_is_segmentation
    Claim(
        "INTRO-1",
        "Semantic segmentation includes finding each object and drawing a box around it.",
        "00_what_is_segmentation",
        doubtful=True,
        verdict=REFUTED,
        sentence="Even a perfect mask does not hold the objects: boxes read off its connected regions find "
        "{INTRO-1/recall_2:.0%} of 2 discs, {INTRO-1/recall_5:.0%} of 5 and {INTRO-1/recall_20:.0%} of 20.",
        conditions="discs of one class at random places, 300 masks for each number",
        checks=("INTRO-1/recall_20 < 0.5", "INTRO-1/recall_20 < INTRO-1/recall_2"),
    ),
    # -------------------------------------------------------------------------------------------- 01_losses_and_metrics
    Claim(
        "LOSS-1",
        "Cross-entropy weighs every pixel alike and Dice does not; Dice lies between 0 and 1, where 1 is a perfect "
        "overlap.",
        "01_losses_and_metrics",
        verdict=CONFIRMED,
        sentence="Bicyclists cover {LOSS-1/pixels:.2%} of the pixels. When training begins they have "
        "{LOSS-1/ce:.2%} of the gradient under cross-entropy and {LOSS-1/dice:.2%} under Dice. The Dice coefficient "
        "of random masks lies between {LOSS-1/dice_lowest@low:.2f} and {LOSS-1/dice_highest@high:.2f}; disjoint masks "
        "have {LOSS-1/dice_disjoint:.0f}, equal ones {LOSS-1/dice_perfect:.0f}. Where the rare "
        "class covers 2 of 100 pixels, its IoU is {LOSS-1/rarity/ce/share_0.02/rare_iou:.2f} under cross-entropy and "
        "{LOSS-1/rarity/dice/share_0.02/rare_iou:.2f} under Dice after 120 steps, and "
        "{LOSS-1/lasting/ce/share_0.02/rare_iou:.2f} and {LOSS-1/lasting/dice/share_0.02/rare_iou:.2f} after 1,200: "
        "Dice starts faster, and cross-entropy comes after.",
        conditions="synthetic scenes at 64x64, gradients before training; a tiny net: 120 steps, 3 seeds, and "
        "1,200 steps, one seed",
        checks=(
            "LOSS-1/dice > LOSS-1/ce@high",
            "LOSS-1/pixels minus LOSS-1/ce < 0.0001",
            "LOSS-1/ce minus LOSS-1/pixels < 0.0001",
            "LOSS-1/dice_lowest@low >= 0",
            "LOSS-1/dice_highest@high <= 1",
            "LOSS-1/dice_disjoint == 0",
            "LOSS-1/dice_perfect == 1",
        ),
    ),
    # ----------------------------------------------------------------------------------------------- 02_encoder_decoder
    Claim(
        "ED-1",
        "An encoder gathers a hierarchy of features: each stage describes more with fewer positions.",
        "02_encoder_decoder",
        verdict=DEPENDS,
        sentence="A linear map reads the classes inside regions with mIoU {ED-1/stage1/inside:.2f}, "
        "{ED-1/stage2/inside:.2f}, {ED-1/stage3/inside:.2f}, {ED-1/stage4/inside:.2f} off stages 1 to 4. At "
        "the borders it "
        "rises to {ED-1/stage3/border:.2f} in stage 3 and falls to {ED-1/stage4/border:.2f} in stage 4: there the "
        "missing positions begin to cost more than the better features bring. Deeper stages are also wider here, from "
        "16 to 48 channels, and these rows do not tell depth from width.",
        conditions="synthetic scenes at 64x64, four stages trained with skips for 300 steps",
        checks=(
            "ED-1/stage2/inside@low > ED-1/stage1/inside@high",
            "ED-1/stage3/inside@low > ED-1/stage2/inside@high",
            "ED-1/stage4/inside > ED-1/stage3/inside",
            "ED-1/stage4/border@high < ED-1/stage3/border@low",
        ),
    ),
    Claim(
        "ED-2",
        "An encoder brings global context: shrinking the map lets one position see far more of the image.",
        "02_encoder_decoder",
        verdict=CONFIRMED,
        sentence="On discs whose class only a light nearby tells, a net that sees 9 pixels is right on "
        "{ED-2/local:.0%}, which is chance, and one with the same weights behind pooling on {ED-2/pooled:.0%}. "
        "Pooling is not the only way: dilated at full resolution it reaches {ED-2/dilated:.0%}, at the cost in ED-4.",
        conditions="synthetic scenes at 64x64, light 5 pixels from the disc, each scene with both lights, 200 steps",
        checks=("ED-2/local@high < 0.55", "ED-2/pooled@low > 0.9", "ED-2/dilated@low > 0.9"),
    ),
    Claim(
        "ED-3",
        "A decoder restores the spatial understanding that the encoder gave up: it puts labels back in their place.",
        "02_encoder_decoder",
        verdict=OPEN,
        sentence="The same encoder scores boundary mIoU {ED-3/upsampling/boundary_miou:.3f} with plain upsampling and "
        "{ED-3/decoder/boundary_miou:.3f} with a decoder that adds the finer stages' scores; mIoU "
        "{ED-3/upsampling/miou:.3f} and {ED-3/decoder/miou:.3f}.",
        missing="a learned decoder without skips, which would say what the skips do and what the decoder does; "
        "training until validation stops rising; a second data set.",
        conditions="synthetic scenes at 64x64, 300 steps",
        checks=("ED-3/decoder/boundary_miou@low > ED-3/upsampling/boundary_miou@high",),
    ),
    Claim(
        "ED-4",
        "The encoder-decoder shape computes efficiently: most of the work is done on small maps.",
        "02_encoder_decoder",
        verdict=CONFIRMED,
        sentence="The same four convolutions at full resolution take {ED-4/flops:.1f} times the FLOPs of the pooled "
        "ones, "
        "keep {ED-4/kept_memory:.1f} times the memory for the backward pass and {ED-4/step_time:.1f} times "
        "the time of a "
        "training step.",
        conditions="equal parameters, batch 8 at 64x64, one thread",
        checks=("ED-4/flops > 2", "ED-4/kept_memory > 2", "ED-4/step_time > 2"),
    ),
    Claim(
        "ED-5",
        "The narrow middle reduces noise: what does not help to tell the classes apart is not carried through.",
        "02_encoder_decoder",
        verdict=DEPENDS,
        sentence="Noise costs the pooled net less: mIoU falls by {ED-5/pooled/noise0 minus ED-5/pooled/noise0.3:.3f}, "
        "against {ED-5/dilated/noise0 minus ED-5/dilated/noise0.3:.3f} for the same weights at full resolution. It is "
        "not the better net for that: full resolution scores higher without noise ({ED-5/dilated/noise0:.3f} against "
        "{ED-5/pooled/noise0:.3f}) and with it ({ED-5/dilated/noise0.3:.3f} against {ED-5/pooled/noise0.3:.3f}).",
        conditions="synthetic scenes at 64x64, noise of standard deviation 0.3, no skips, 150 steps",
        checks=(
            "ED-5/pooled/noise0 minus ED-5/pooled/noise0.3 < ED-5/dilated/noise0 minus ED-5/dilated/noise0.3",
            "ED-5/dilated/noise0.3@low > ED-5/pooled/noise0.3@high",
        ),
    ),
    # ----------------------------------------------------------------------------------------------------------- 03_fcn
    Claim(
        "FCN-1",
        "Without dense layers a network takes an image of any size and needs fewer parameters.",
        "03_fcn",
        doubtful=True,
        verdict=DEPENDS,
        sentence="Any size: yes, on {FCN-1/any_size:.0%} of the sizes tried. Fewer parameters: no. The paper's FCN-32s "
        "has {FCN-1/fcn32s:,.0f} against VGG-16's {FCN-1/vgg16:,.0f}, and {FCN-1/dense_share:.0%} of them are the old "
        "dense layers, kept as convolutions. Dropped, they would leave {FCN-1/without_dense:,.0f}.",
        conditions="21 classes, sizes from 32 to 97 in steps of 13",
        checks=("FCN-1/any_size == 1", "FCN-1/dense_share > 0.5", "FCN-1/fcn32s > 100000000"),
    ),
    Claim(
        "FCN-2",
        "Plain upsampling loses fine detail, and skips recover it: FCN-16s beats 32s and 8s beats 16s, at the borders "
        "above all.",
        "03_fcn",
        verdict=CONFIRMED,
        sentence="Boundary mIoU of 32s, 16s and 8s: {street/fcn32s/boundary_miou:.3f}, "
        "{street/fcn16s/boundary_miou:.3f} and {street/fcn8s/boundary_miou:.3f} on streets, "
        "{tissue/fcn32s/boundary_miou:.3f}, {tissue/fcn16s/boundary_miou:.3f} and {tissue/fcn8s/boundary_miou:.3f} on "
        "tissue, no seeds overlapping. 8s has {street/fcn8s/boundary_miou over street/fcn32s/boundary_miou:.2f} and "
        "{tissue/fcn8s/boundary_miou over tissue/fcn32s/boundary_miou:.2f} times the boundary mIoU of 32s, and "
        "{street/fcn8s/miou over street/fcn32s/miou:.2f} and {tissue/fcn8s/miou over tissue/fcn32s/miou:.2f} times its "
        "mIoU. The first skip buys most of it. Without skips, FCN-32s is at the borders of tissue no better than a "
        "network that sees a single pixel ({tissue/one_pixel/boundary_miou:.3f}).",
        conditions="CamVid at 180x240 and Drosophila VNC, tiny presets from random weights, 3,000 steps, test sets, "
        "3 seeds",
        checks=(
            "street/fcn8s/boundary_miou over street/fcn32s/boundary_miou > street/fcn8s/miou over street/fcn32s/miou",
            "tissue/fcn8s/boundary_miou over tissue/fcn32s/boundary_miou > tissue/fcn8s/miou over tissue/fcn32s/miou",
            "street/fcn16s/miou minus street/fcn32s/miou > street/fcn8s/miou minus street/fcn16s/miou",
            "tissue/fcn16s/miou minus tissue/fcn32s/miou > tissue/fcn8s/miou minus tissue/fcn16s/miou",
            "tissue/fcn32s/boundary_miou < tissue/one_pixel/boundary_miou",
        ),
        comparisons=(
            Comparison("fcn16s", "fcn32s", "boundary_miou"),
            Comparison("fcn8s", "fcn16s", "boundary_miou"),
        ),
    ),
    Claim(
        "FCN-3",
        "The original FCN upsampled and nothing else; skip connections came with later networks.",
        "03_fcn",
        doubtful=True,
        verdict=REFUTED,
        sentence="The paper itself has three networks: FCN-32s with {FCN-3/fcn32s:.0f} skips, FCN-16s with "
        "{FCN-3/fcn16s:.0f} and FCN-8s with {FCN-3/fcn8s:.0f} (its section 4.2 and figure 3).",
        conditions="score layers on pooling layers, counted",
        checks=("FCN-3/fcn16s == 1", "FCN-3/fcn8s == 2"),
    ),
    # ---------------------------------------------------------------------------------------------------------- 04_unet
    Claim(
        "UNET-1",
        "U-Net's skips recover the detail that its contracting path loses.",
        "04_unet",
        verdict=OPEN,
        sentence="In a short training, fed zeros in the skips' place, U-Net finds membranes 2 pixels thick with IoU "
        "{UNET-1/cells/cut/membrane_iou:.2f} (seeds from {UNET-1/cells/cut/membrane_iou@low:.2f} to "
        "{UNET-1/cells/cut/membrane_iou@high:.2f}), with its skips {UNET-1/cells/unet/membrane_iou:.2f}; FCN-8s "
        "{UNET-1/cells/fcn8s/membrane_iou:.2f}. On real tissue, where membranes are thicker, their IoU is "
        "{UNET-1/vnc/cut/membrane_iou:.2f} ({UNET-1/vnc/cut/membrane_iou@low:.2f} to "
        "{UNET-1/vnc/cut/membrane_iou@high:.2f}), {UNET-1/vnc/unet/membrane_iou:.2f} and "
        "{UNET-1/vnc/fcn8s/membrane_iou:.2f}. A network with its skips cut can come to answer one class everywhere: "
        "that it did not learn says nothing of what it could know.",
        missing="both networks trained until validation stops rising, so that what a network cannot know and what it "
        "has not learnt are told apart.",
        conditions="synthetic cells at 96x96 and Drosophila VNC in tiles of 128x128, tiny presets from random "
        "weights, 300 steps, 3 seeds",
        checks=(
            "UNET-1/cells/unet/membrane_iou@low > UNET-1/cells/cut/membrane_iou@high",
            "UNET-1/vnc/unet/membrane_iou@low > UNET-1/vnc/cut/membrane_iou@high",
        ),
    ),
    Claim(
        "UNET-2",
        "Passing whole feature maps across costs memory and training time.",
        "04_unet",
        verdict=CONFIRMED,
        sentence="One image of 572x572 sends {UNET-2/carried:.0f} MiB over the bridges. Beside the same network "
        "without them, a training step keeps {UNET-2/unet/kept:.0f} MiB in place of {UNET-2/skipless/kept:.0f}, an "
        "inference holds {UNET-2/unet/peak_inference:.0f} in place of {UNET-2/skipless/peak_inference:.0f}, and a "
        "step takes {UNET-2/flops:.2f} times the FLOPs and {UNET-2/step_time:.2f} times the time.",
        conditions="the paper's network, float32, bytes and FLOPs counted; step timed padded at the same widths, "
        "batch 2 at 96x96, one thread",
        checks=(
            "UNET-2/unet/kept minus UNET-2/skipless/kept > 73",
            "UNET-2/unet/peak > UNET-2/skipless/peak",
            "UNET-2/unet/peak_inference over UNET-2/skipless/peak_inference > 1.2",
            "UNET-2/step_time > 1",
        ),
    ),
    # -------------------------------------------------------------------------------------------------------- 05_segnet
    Claim(
        "SEG-1",
        "Passing pooling indices in place of feature maps needs less memory and trains faster.",
        "05_segnet",
        verdict=DEPENDS,
        sentence="Less crosses: {SEG-1/memory/maps:.0f} MiB as maps, {SEG-1/memory/int64:.0f} MiB as the indices that "
        "PyTorch stores, {SEG-1/memory/two_bits:.1f} MiB at two bits. Memory against the same net with the maps added: "
        "not a byte saved, {SEG-1/memory/segnet/kept:.0f} MiB kept for the backward pass on both sides and "
        "{SEG-1/memory/segnet/peak_inference:.0f} MiB at the peak of an inference, and a training step takes "
        "{SEG-1/time/training/added:.2f} of its time. Against maps that are concatenated, "
        "{SEG-1/memory/segnet/kept over SEG-1/memory/concatenated/kept:.2f} and "
        "{SEG-1/memory/segnet/peak_inference over SEG-1/memory/concatenated/peak_inference:.2f} of the memory and "
        "{SEG-1/time/training/concatenated:.2f} of the time; against U-Net, "
        "{SEG-1/memory/segnet/kept over SEG-1/memory/unet/kept:.2f}, "
        "{SEG-1/memory/segnet/peak_inference over SEG-1/memory/unet/peak_inference:.2f} and "
        "{SEG-1/time/training/unet:.2f}.",
        conditions="the paper's widths, bytes counted at 360x480, batch 1; time at 96x128 on one thread",
        checks=(
            "SEG-1/memory/int64 < SEG-1/memory/maps",
            "SEG-1/memory/segnet/kept == SEG-1/memory/added/kept",
            "SEG-1/memory/segnet/peak == SEG-1/memory/added/peak",
            "SEG-1/memory/segnet/peak_inference == SEG-1/memory/added/peak_inference",
            "SEG-1/memory/segnet/kept < SEG-1/memory/concatenated/kept",
            "SEG-1/memory/segnet/peak_inference < SEG-1/memory/concatenated/peak_inference",
            "SEG-1/time/training/added > 0.95",
            "SEG-1/time/training/concatenated@high < 1",
            "SEG-1/time/training/unet@high < 1",
        ),
    ),
    Claim(
        "SEG-2",
        "Pooling indices lose some localisation against U-Net's feature maps.",
        "05_segnet",
        verdict=OPEN,
        sentence="Converged on streets, boundary mIoU is {street/segnet/boundary_miou:.3f} "
        "({street/segnet/boundary_miou@spread}) for SegNet and {street/unet/boundary_miou:.3f} "
        "({street/unet/boundary_miou@spread}) for U-Net, two networks that differ in more than their skips. In short "
        "trainings of one network with other things crossing, thin membranes: nothing "
        "{SEG-2/cells/upsampled/boundary_miou:.2f}, indices {SEG-2/cells/segnet/boundary_miou:.2f}, maps added "
        "{SEG-2/cells/added/boundary_miou:.2f}, maps concatenated {SEG-2/cells/concatenated/boundary_miou:.2f}; real "
        "tissue: indices {SEG-2/vnc/segnet/boundary_miou:.2f}, maps concatenated "
        "{SEG-2/vnc/concatenated/boundary_miou:.2f}.",
        missing="the one network with indices, added and concatenated maps, trained until validation stops rising on "
        "two data sets.",
        conditions="CamVid at 180x240, 3,000 steps; synthetic cells at 96x96, membranes 2 pixels thick, "
        "and Drosophila VNC in tiles of 128x128, 300 steps; random weights, 3 seeds",
        checks=(
            "street/segnet/boundary_miou@high < street/unet/boundary_miou@low",
            "SEG-2/cells/segnet/boundary_miou@high < SEG-2/cells/added/boundary_miou@low",
            "SEG-2/cells/segnet/boundary_miou@high < SEG-2/cells/concatenated/boundary_miou@low",
            "SEG-2/cells/segnet/boundary_miou@low > SEG-2/cells/upsampled/boundary_miou@high",
            "SEG-2/vnc/segnet/boundary_miou@high < SEG-2/vnc/concatenated/boundary_miou@low",
        ),
    ),
    Claim(
        "SEG-3",
        "Dropping the dense layers of VGG16 makes the encoder much smaller.",
        "05_segnet",
        verdict=CONFIRMED,
        sentence="VGG-16 with batch normalisation has {SEG-3/vgg16:,.0f} parameters, {SEG-3/dense_share:.0%} of them "
        "in its dense layers; SegNet's encoder, the rest, has {SEG-3/encoder:,.0f}, {SEG-3/times:.1f} times fewer. The "
        "decoder then doubles them, to {papers/segnet/parameters:,}.",
        conditions="parameters counted, classifier for 1,000 classes",
        checks=("SEG-3/dense_share > 0.8", "SEG-3/times > 5"),
    ),
    # -------------------------------------------------------------------------------------------------------- 06_pspnet
    Claim(
        "PSP-1",
        "Pyramid pooling brings global context.",
        "06_pspnet",
        verdict=CONFIRMED,
        sentence="On discs whose class a light 72 pixels away tells, half a ResNet, which sees {PSP-1/short/reach:.0f} "
        "pixels far, is right on {PSP-1/short/share:.0%}, which is chance, and with pyramid pooling on "
        "{PSP-1/short_pyramid/share:.0%}. The mean of the whole image alone does it as well: "
        "{PSP-1/short_mean/share:.0%}. To see far is not enough: a whole dilated ResNet without a pyramid sees "
        "{PSP-1/deep/reach:.0f} pixels far and is right on {PSP-1/deep/share@low:.0%} to {PSP-1/deep/share@high:.0%}, "
        "depending on the seed; SegNet sees {PSP-1/segnet/reach:.0f} pixels far and is right on "
        "{PSP-1/segnet/share:.0%}.",
        conditions="synthetic scenes at 96x128, each with both lights, tiny presets, 300 steps",
        checks=(
            "PSP-1/short/reach < 72",
            "PSP-1/deep/reach > 72",
            "PSP-1/segnet/reach > 72",
            "PSP-1/short/share@high < 0.55",
            "PSP-1/segnet/share@high < 0.55",
            "PSP-1/short_pyramid/share@low > 0.9",
            "PSP-1/short_mean/share@low > 0.9",
            "PSP-1/deep/share@low < 0.6",
            "PSP-1/deep/share@high > 0.9",
        ),
    ),
    Claim(
        "PSP-2",
        "PSPNet costs more than SegNet, U-Net and FCN: FLOPs, time and memory.",
        "06_pspnet",
        verdict=DEPENDS,
        sentence="PSPNet-50 takes {PSP-2/pspnet/flops over PSP-2/fcn8s/flops:.2f} times the FLOPs of FCN-8s, "
        "{PSP-2/pspnet/flops over PSP-2/segnet/flops:.2f} times SegNet's and "
        "{PSP-2/pspnet/flops over PSP-2/unet/flops:.2f} times U-Net's. For the backward pass it keeps "
        "{PSP-2/pspnet/kept_memory over PSP-2/fcn8s/kept_memory:.2f}, "
        "{PSP-2/pspnet/kept_memory over PSP-2/segnet/kept_memory:.2f} and "
        "{PSP-2/pspnet/kept_memory over PSP-2/unet/kept_memory:.2f} times as much. A training step takes "
        "{PSP-2/fcn8s/step_time:.2f}, {PSP-2/segnet/step_time:.2f} and {PSP-2/unet/step_time:.2f} times as long.",
        conditions="the papers' widths, 11 classes, one image: counts at 360x480, time at 192x256 on one thread",
        checks=(
            "PSP-2/pspnet/flops > PSP-2/segnet/flops",
            "PSP-2/pspnet/flops > PSP-2/fcn8s/flops",
            "PSP-2/pspnet/flops < PSP-2/unet/flops",
            "PSP-2/pspnet/kept_memory > PSP-2/unet/kept_memory",
            "PSP-2/pspnet/kept_memory < PSP-2/segnet/kept_memory",
            "PSP-2/fcn8s/step_time < 1",
            "PSP-2/unet/step_time > 1",
            "PSP-2/segnet/step_time > 1",
        ),
    ),
    # -------------------------------------------------------------------------------------- 07_atrous_and_deeplab_v1
    Claim(
        "DL-1",
        "An atrous convolution widens the receptive field with no extra parameters and no loss of resolution.",
        "07_atrous_and_deeplab_v1",
        verdict=CONFIRMED,
        sentence="At rate 12 instead of 1, fc6 of DeepLab v1 sees {DL-1/field_rate12:.0f} pixels instead of "
        "{DL-1/field_rate1:.0f}, with as many parameters (ratio {DL-1/parameters:.0f}), on a map of as many positions. "
        "The larger map that the holes make possible, {DL-1/positions_rate12 over DL-1/positions_stride32:.0f} times "
        "the positions of output stride 32, is not free: {DL-1/flops:.2f} times the FLOPs of the whole net and "
        "{DL-1/training_peak:.2f} times the peak memory of a training step.",
        conditions="DeepLab v1 LargeFOV at the paper's widths, one image of 360x480",
        checks=(
            "DL-1/parameters == 1",
            "DL-1/field_rate12 > DL-1/field_rate1",
            "DL-1/positions_rate12 == DL-1/positions_rate1",
            "DL-1/flops > 1",
        ),
    ),
    Claim(
        "DL-2",
        "The dense CRF sharpens the borders of a coarse network, and stops helping once the network has a decoder.",
        "07_atrous_and_deeplab_v1",
        verdict=DEPENDS,
        sentence="It sharpens: boundary mIoU of DeepLab v1 goes from {DL-2/deeplab_v1/without_crf/boundary_miou:.3f} "
        "to {DL-2/deeplab_v1/with_crf/boundary_miou:.3f}. The decoder alone does more "
        "({DL-2/deeplab_v3plus/without_crf/boundary_miou:.3f} for v3+) and leaves the CRF less to do, not nothing: v3 "
        "gains {DL-2/deeplab_v3/with_crf/boundary_miou minus DL-2/deeplab_v3/without_crf/boundary_miou:.3f} from it, "
        "v3+ still {DL-2/deeplab_v3plus/with_crf/boundary_miou minus "
        "DL-2/deeplab_v3plus/without_crf/boundary_miou:.3f}. Drawn scenes are its best case: every border is a colour "
        "edge.",
        conditions="synthetic scenes at 64x96, tiny presets, 300 steps, CRF settings chosen on other scenes, 3 seeds",
        checks=(
            "DL-2/deeplab_v1/with_crf/boundary_miou@low > DL-2/deeplab_v1/without_crf/boundary_miou@high",
            "DL-2/deeplab_v3/with_crf/boundary_miou@low > DL-2/deeplab_v3/without_crf/boundary_miou@high",
            "DL-2/deeplab_v3plus/with_crf/boundary_miou@low > DL-2/deeplab_v3plus/without_crf/boundary_miou@high",
            "DL-2/deeplab_v3plus/without_crf/boundary_miou@low > DL-2/deeplab_v1/with_crf/boundary_miou@high",
            "DL-2/deeplab_v3plus/with_crf/boundary_miou minus DL-2/deeplab_v3plus/without_crf/boundary_miou < "
            "DL-2/deeplab_v3/with_crf/boundary_miou minus DL-2/deeplab_v3/without_crf/boundary_miou",
        ),
    ),
    Claim(
        "DL-8",
        "With atrous convolution there is no need to upsample.",
        "07_atrous_and_deeplab_v1",
        doubtful=True,
        verdict=REFUTED,
        sentence="In DeepLab v1, {DL-8/pixels_per_score:.0f} pixels share one score, and the map is enlarged by "
        "{DL-8/enlarged:.0f}. Holes in place of every stride would need no upsampling, and {DL-8/flops:.0f} times the "
        "FLOPs and {DL-8/training_gib:.0f} GiB for a training step on one image, {DL-8/training_peak:.0f} times as "
        "much.",
        conditions="DeepLab v1 LargeFOV at the paper's widths, one image of 360x480",
        checks=("DL-8/pixels_per_score > 1", "DL-8/enlarged == 8", "DL-8/flops > 10"),
    ),
    # ------------------------------------------------------------------------------------------------- 08_deeplab_v2_v3
    Claim(
        "DL-3",
        "ASPP helps on objects of many scales.",
        "08_deeplab_v2_v3",
        verdict=DEPENDS,
        sentence="Behind a stem that sees 11 pixels it does, at every size: rates 1, 3, 6 find "
        "{DL-3/stem/aspp/small:.0%} of the pixels of small things, {DL-3/stem/aspp/medium:.0%} of medium and "
        "{DL-3/stem/aspp/large:.0%} of large ones, rate 1 alone {DL-3/stem/rate_1/small:.0%}, "
        "{DL-3/stem/rate_1/medium:.0%} and {DL-3/stem/rate_1/large:.0%}, rate 6 alone {DL-3/stem/rate_6/small:.0%}, "
        "{DL-3/stem/rate_6/medium:.0%} and {DL-3/stem/rate_6/large:.0%}. Behind a whole dilated ResNet, which has "
        "looked around already, mIoU is {DL-3/resnet/one_rate/miou:.3f} with one rate, {DL-3/resnet/aspp/miou:.3f} "
        "with three and {DL-3/resnet/aspp_pooling/miou:.3f} with image pooling: no difference that three seeds could "
        "show.",
        conditions="synthetic scenes at 96x128, things of 16 to 1 in size, tiny nets, 300 steps, 3 seeds",
        checks=(
            "DL-3/stem/aspp/miou@low > DL-3/stem/rate_1/miou@high",
            "DL-3/stem/aspp/miou@low > DL-3/stem/rate_6/miou@high",
            "DL-3/stem/aspp/small > DL-3/stem/rate_6/small",
            "DL-3/stem/aspp/small@low > DL-3/stem/rate_1/small@high",
            "DL-3/stem/aspp/medium@low > DL-3/stem/rate_6/medium@high",
            "DL-3/stem/aspp/large@low > DL-3/stem/rate_6/large@high",
            "DL-3/resnet/aspp/miou@low < DL-3/resnet/one_rate/miou@high",
            "DL-3/resnet/one_rate/miou@low < DL-3/resnet/aspp/miou@high",
        ),
    ),
    Claim(
        "DL-7",
        "DeepLab v3 improves on v2 by more and wider rates and a deeper backbone.",
        "08_deeplab_v2_v3",
        doubtful=True,
        verdict=DEPENDS,
        sentence="More rates: no, {DL-7/v3/branches:.0f} atrous branches in v3 against {DL-7/v2/branches:.0f} in v2. A "
        "deeper backbone: no, ResNet-{DL-7/v3/depth:.0f} in both. Wider rates: it depends on the ruler. The largest "
        "is {DL-7/v3/largest_rate:.0f} positions in v3 and {DL-7/v2/largest_rate:.0f} in v2, but at output strides of "
        "16 and 8 these are {DL-7/v3/largest_rate over 0.0625:.0f} and {DL-7/v2/largest_rate over 0.125:.0f} pixels. "
        "The v3 paper tries rate 24 besides and reports {papers/deeplab_v3/gain_rate_24:+.2f} points of mIoU. New in "
        "v3's ASPP are {DL-7/v3/norms:.0f} normalisations (v2: {DL-7/v2/norms:.0f}) and a branch that sees the whole "
        "image.",
        conditions="the networks as their papers describe them, counted; v3 at its training stride, 16 (at 8, where it "
        "is evaluated, its rates are doubled)",
        checks=(
            "DL-7/v3/branches < DL-7/v2/branches",
            "DL-7/v3/largest_rate < DL-7/v2/largest_rate",
            "DL-7/v3/largest_rate over 0.0625 > DL-7/v2/largest_rate over 0.125",
            "DL-7/v3/depth == DL-7/v2/depth",
            "papers/deeplab_v3/gain_rate_24 < 0",
            "DL-7/v3/pooled == 1",
            "DL-7/v2/pooled == 0",
        ),
    ),
    # ------------------------------------------------------------------------------------------------ 09_deeplab_v3plus
    Claim(
        "DL-4",
        "Depthwise-separable atrous convolution cuts the cost at little loss.",
        "09_deeplab_v3plus",
        verdict=OPEN,
        sentence="Separable, ASPP and decoder keep {DL-4/cost/head_flops:.0%} of their FLOPs and "
        "{DL-4/cost/head_time:.0%} of their time on one CPU thread; the whole net keeps {DL-4/cost/flops:.0%} of its "
        "FLOPs and {DL-4/cost/parameters:.0%} of its parameters. FLOPs fall much further than time. In short trainings "
        "mIoU is {DL-4/separable/miou:.3f} ({DL-4/separable/miou@spread}) against {DL-4/dense/miou:.3f} "
        "({DL-4/dense/miou@spread}) and boundary mIoU {DL-4/separable/boundary_miou:.3f} against "
        "{DL-4/dense/boundary_miou:.3f}.",
        missing="the loss, of both variants trained until validation stops rising on two data sets.",
        conditions="cost at the paper's widths on ResNet-50, scores of tiny presets on CamVid at 120x160, 3 seeds",
        checks=(
            "DL-4/cost/head_flops < 0.2",
            "DL-4/cost/head_time@high < 0.9",
            "DL-4/cost/head_time@low > DL-4/cost/head_flops",
            "DL-4/separable/miou > DL-4/dense/miou@low",
            "DL-4/separable/boundary_miou > DL-4/dense/boundary_miou@low",
        ),
    ),
    Claim(
        "DL-5",
        "The decoder of DeepLab v3+ improves the borders over v3.",
        "09_deeplab_v3plus",
        verdict=DEPENDS,
        sentence="Converged on streets it does not: boundary mIoU is {street/deeplab_v3/boundary_miou:.3f} "
        "({street/deeplab_v3/boundary_miou@spread}) for v3 and {street/deeplab_v3plus/boundary_miou:.3f} "
        "({street/deeplab_v3plus/boundary_miou@spread}) for v3+; but this v3 works at output stride 8 and this v3+ at "
        "16. At 16 for both, after a short training, mIoU within 3 pixels of a border is "
        "{DL-5/v3/band3:.3f} without the decoder and {DL-5/v3plus/band3:.3f} with it, no seeds overlapping; over the "
        "whole image {DL-5/v3/miou:.3f} and {DL-5/v3plus/miou:.3f}. The decoder stands in for the finer map.",
        conditions="CamVid: at 180x240, 3,000 steps, the tiny presets; at 120x160, 400 steps, output stride "
        "16; 3 seeds",
        checks=(
            "street/deeplab_v3plus/boundary_miou@low < street/deeplab_v3/boundary_miou@high",
            "street/deeplab_v3/boundary_miou@low < street/deeplab_v3plus/boundary_miou@high",
            "DL-5/v3plus/band3@low > DL-5/v3/band3@high",
            "DL-5/v3plus/band1@low > DL-5/v3/band1@high",
            "DL-5/v3plus/band3 minus DL-5/v3/band3 > DL-5/v3plus/miou minus DL-5/v3/miou",
        ),
    ),
    Claim(
        "DL-6",
        "DeepLab v3 introduced atrous depthwise-separable convolution.",
        "09_deeplab_v3plus",
        doubtful=True,
        verdict=REFUTED,
        sentence="Depthwise convolutions, counted in the networks as their papers describe them: {DL-6/v2:.0f} in v2, "
        "{DL-6/v3:.0f} in v3, {DL-6/v3plus:.0f} in v3+, whose paper introduces them and has them in its title.",
        conditions="counted; v3+ in its separable variant on ResNet-50",
        checks=("DL-6/v3 == 0", "DL-6/v3plus > 0"),
    ),
    # ----------------------------------------------------------------------------------------------------------- 10_vit
    Claim(
        "ATT-1",
        "The cost of ViT grows with the square of the number of pixels, that of Swin linearly.",
        "10_vit",
        verdict=DEPENDS,
        sentence="Swin's cost is linear; ViT's square is only in its scores, {ATT-1/vit/256/attention:.0%} of the "
        "work of ViT-B/16 at 256 pixels a side and {ATT-1/vit/1024/attention:.0%} at 1024. Between the two, FLOPs grow "
        "with the pixels to the power {ATT-1/vit/flops_exponent:.2f} (Swin-T: {ATT-1/swin/flops_exponent:.2f}); "
        "memory kept for the backward pass to {ATT-1/vit_explicit/memory_exponent:.2f} with the weights written down, "
        "to {ATT-1/vit/memory_exponent:.2f} by the fused kernel (Swin-T: {ATT-1/swin/memory_exponent:.2f}); the time "
        "of a narrow ViT to {ATT-1/vit/ms_exponent:.2f} (tiny Swin: {ATT-1/swin/ms_exponent:.2f}).",
        conditions="one image of 256 to 1024 pixels a side; ViT-B/16 and Swin-T counted, a ViT of width 192 and the "
        "tiny Swin timed on one CPU thread",
        checks=(
            "ATT-1/vit/flops_exponent < 1.6",
            "ATT-1/vit/flops_exponent > 1.1",
            "ATT-1/swin/flops_exponent < 1.1",
            "ATT-1/swin/memory_exponent < 1.1",
            "ATT-1/vit/memory_exponent < 1.1",
            "ATT-1/vit_explicit/memory_exponent > 1.3",
            "ATT-1/vit/ms_exponent > ATT-1/swin/ms_exponent",
        ),
    ),
    # ----------------------------------------------------------------------------------------------------- 13_backbones
    Claim(
        "BB-1",
        "In training throughput at batch 8, ResNet-50, ResNet-101, ConvNeXt-tiny, MiT-B0 and MiT-B5 with their heads "
        "stand in a fixed order.",
        "13_backbones",
        verdict=DEPENDS,
        sentence="Time of a step over ResNet-50's, on one CPU thread: MiT-B0 {BB-1/mit-b0-segformer/relative:.2f}, "
        "ConvNeXt-tiny {BB-1/convnext-tiny-aspp/relative:.2f}, ResNet-101 {BB-1/resnet101-aspp/relative:.2f}, MiT-B5 "
        "{BB-1/mit-b5-segformer/relative:.2f}; ConvNeXt-tiny and ResNet-101 lie within each other's spread. FLOPs over "
        "ResNet-50's: ConvNeXt-tiny {BB-1/convnext-tiny-aspp/flops over BB-1/resnet50-aspp/flops:.2f}, ResNet-101 "
        "{BB-1/resnet101-aspp/flops over BB-1/resnet50-aspp/flops:.2f}, MiT-B5 "
        "{BB-1/mit-b5-segformer/flops over BB-1/resnet50-aspp/flops:.2f}: another order. Whether the order of time "
        "holds on other machines is not measured.",
        conditions="512x512, fp32, batches of 2, forward and backward",
        checks=(
            "BB-1/mit-b0-segformer/relative < 0.5",
            "BB-1/convnext-tiny-aspp/relative > 1.02",
            "BB-1/resnet101-aspp/relative > BB-1/convnext-tiny-aspp/relative",
            "BB-1/mit-b5-segformer/relative > BB-1/resnet101-aspp/relative",
            "BB-1/convnext-tiny-aspp/flops < BB-1/resnet50-aspp/flops",
            "BB-1/mit-b5-segformer/flops < BB-1/resnet101-aspp/flops",
        ),
    ),
    Claim(
        "BB-2",
        "The same five stand in a fixed order of memory, and ResNet-50 with ASPP trains at batch 8 in less than 8 GB.",
        "13_backbones",
        verdict=CONFIRMED,
        sentence="MiT-B0 takes {BB-2/mit-b0-segformer/training:.1f} GiB, ResNet-50 "
        "{BB-2/resnet50-aspp/training:.1f}, ConvNeXt-tiny {BB-2/convnext-tiny-aspp/training:.1f}, ResNet-101 "
        "{BB-2/resnet101-aspp/training:.1f}, MiT-B5 {BB-2/mit-b5-segformer/training:.1f}; gradients and AdamW's state "
        "are in it, an allocator's overhead is not. Checkpointing changes the order: then MiT-B5 takes "
        "{BB-2/mit-b5-segformer/checkpointing:.1f} GiB and ResNet-50 {BB-2/resnet50-aspp/checkpointing:.1f}.",
        conditions="512x512, fp32, batch 8, aspp on backbones dilated to 16; counted from the shapes",
        checks=(
            "BB-2/mit-b0-segformer/training < BB-2/resnet50-aspp/training",
            "BB-2/resnet50-aspp/training < BB-2/convnext-tiny-aspp/training",
            "BB-2/convnext-tiny-aspp/training < BB-2/resnet101-aspp/training",
            "BB-2/resnet101-aspp/training < BB-2/mit-b5-segformer/training",
            "BB-2/resnet50-aspp/training < 7.4",
            "BB-2/mit-b5-segformer/checkpointing < BB-2/resnet50-aspp/checkpointing",
        ),
    ),
    Claim(
        "BB-3",
        "ConvNeXt is more accurate than ResNet at similar speed.",
        "13_backbones",
        verdict=WAITS,
    ),
    Claim(
        "BB-6",
        "Gradient checkpointing trades time for memory.",
        "13_backbones",
        verdict=CONFIRMED,
        sentence="A step takes {BB-6/resnet50-aspp/time:.2f} of the time with ResNet-50 and "
        "{BB-6/mit-b5-segformer/time:.2f} with MiT-B5, and its peak is {BB-6/resnet50-aspp/peak:.2f} and "
        "{BB-6/mit-b5-segformer/peak:.2f} of the memory: a transformer's blocks keep many maps each, a bottleneck few. "
        "Gradients and statistics are the same.",
        conditions="time at 256x256 in batches of 2, memory counted at 512x512 and batch 8",
        checks=(
            "BB-6/resnet50-aspp/time > 1.1",
            "BB-6/mit-b5-segformer/time > 1.1",
            "BB-6/resnet50-aspp/peak < 0.7",
            "BB-6/mit-b5-segformer/peak < 0.3",
        ),
    ),
    # --------------------------------------------------------------------------------------------------------- 14_heads
    Claim(
        "SF-1",
        "The light SegFormer heads: ultrafast is about 40 % faster for 1 to 2 points of mIoU, extremely fast about "
        "60 % faster for 3 to 5 points.",
        "14_heads",
        verdict=DEPENDS,
        sentence="Throughput over that of the full head in the order of the paper: ultrafast "
        "{SF-1/speed/ultrafast/faster:+.0%}, extremely fast {SF-1/speed/extremely_fast/faster:+.0%}, more than is "
        "said. But the full head that fuses before it enlarges, with the same scores, has "
        "{SF-1/speed/reordered/faster:+.0%} as well. Throughput over that of the reordered head: ultrafast "
        "{SF-1/speed/ultrafast/faster_than_reordered:+.0%}, extremely fast "
        "{SF-1/speed/extremely_fast/faster_than_reordered:+.0%}, and a head that costs nothing would have "
        "{SF-1/speed/encoder/faster_than_reordered:+.0%}, less than is said of the fastest. mIoU: full "
        "{SF-1/full/miou:.3f}, ultrafast {SF-1/ultrafast/miou:.3f}, extremely fast {SF-1/extremely_fast/miou:.3f}.",
        conditions="speed: MiT-B0, one image of 512x512, 19 classes, one CPU thread; score: CamVid at 180x240 from "
        "random weights, 600 steps, 3 seeds",
        checks=(
            "SF-1/speed/ultrafast/faster > 0.4",
            "SF-1/speed/extremely_fast/faster > 0.6",
            "SF-1/speed/encoder/faster_than_reordered < 0.6",
            "SF-1/speed/ultrafast/of_bound > 0.85",
            "SF-1/speed/extremely_fast/of_bound > 0.92",
            "SF-1/full/miou minus SF-1/ultrafast/miou < 0.01",
            "SF-1/full/miou minus SF-1/extremely_fast/miou < 0.02",
        ),
    ),
    Claim("BB-4", "MiT backbones work best with SegFormer heads.", "14_heads", verdict=WAITS),
    Claim("BB-5", "MiT-B5 with the SegFormer head is the most accurate combination.", "14_heads", verdict=WAITS),
    # ------------------------------------------------------------------------------------------------------- 15_factory
    Claim(
        "FAC-1",
        "Every head works with every backbone.",
        "15_factory",
        verdict=CONFIRMED,
        sentence="All {FAC-1/resnet18/works:.0f} heads were built on each of the listed backbones, run, trained for a "
        "step with one image, saved and reloaded; from {FAC-1/ghostnet/fcn:.1f} GFLOPs for an image of 512x512 "
        "(GhostNet, fcn) to {FAC-1/convnext-xlarge/uper:,.0f} (ConvNeXt-xlarge, uper). One pair of settings is "
        "refused on purpose: jpu, which stands in for dilation, on a backbone that is dilated.",
        conditions="random weights, images of 65x97 and 128x128, batch 1, default settings of every backbone and head",
        checks=tuple(f"FAC-1/{name}/works == 12" for name in BACKBONES),
    ),
)


def find(id: str) -> Claim:
    """The claim with this id.

    Raises:
        ClaimError: When there is none.
    """
    for claim in CLAIMS:
        if claim.id == id:
            return claim
    raise ClaimError(f"There is no claim {id!r}; there are {', '.join(claim.id for claim in CLAIMS)}.")
