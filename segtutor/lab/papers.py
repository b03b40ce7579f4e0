"""Facts about the papers of this book, published or computed, as frozen data: no logic lives here.

Tests, chapters and tables read their numbers from this file, so that a number is written once and a test can hold it.

Three things to know when reading an entry:

- `Fact.where` says where the value comes from: a section or table of the paper, the README or a file of the released
  code, or "computed". A computed value is this package's own: it was counted from the paper's description, from the
  released files or from another library's network, and `tests/test_papers.py` repeats the computations that need no
  pretrained weights without the package's models. Call a value "published" only where a paper or its authors print it.
- Parameters are `p.numel()` summed over `parameters()`: running statistics of batch norm are buffers and do not count.
- `unit` "GMAC" is 10^9 multiply-adds. Most papers print that number under the name GFLOPs; `segtutor.probe` counts two
  FLOPs for each multiply-add, so its figures are twice as large.

`Paper.year` and `Paper.venue` belong to the published version; the arXiv identifier starts with year and month of the
first public one. `PAPERS` is ordered as the chapters meet the papers, the two classification backbones last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Fact:
    """One published or computed value.

    Attributes:
        value: A number, a text, or a tuple of them; `unit` says what the places of a tuple mean.
        unit: "parameters", "GMAC", "percent", "pixels", ... or "" for a plain number.
        where: Source of the value, as described in the module's docstring.
    """

    value: float | int | str | tuple
    unit: str
    where: str


@dataclass(frozen=True)
class Paper:
    """One paper: how to cite it, what it brought, and the facts that this book uses.

    Attributes:
        key: Its key in `PAPERS`.
        title: Title as published.
        authors: All authors, "Given Family", in the paper's order.
        year: Year of the published version.
        venue: Conference, journal or "arXiv".
        arxiv: arXiv identifier, for example "1411.4038".
        bibkey: Key in `book/references.bib`.
        innovation: The new idea, in one sentence without a full stop.
        facts: Read-only mapping from a snake_case name to a `Fact`.
    """

    key: str
    title: str
    authors: tuple[str, ...]
    year: int
    venue: str
    arxiv: str
    bibkey: str
    innovation: str
    facts: Mapping[str, Fact]


def _facts(**entries: tuple) -> Mapping[str, Fact]:
    return MappingProxyType({name: Fact(*entry) for name, entry in entries.items()})


_PROTOTXT = "released prototxt"
_COUNTED = "computed: counted from the paper's description"
_GEOMETRY = "computed: convolution arithmetic of the released prototxt"
_FCN_README = "README of the released code (nets retrained after the conference paper)"
_TORCHVISION = "computed: torchvision's network"
_IMAGENET = "torchvision, metadata of the weights"

_FCN = Paper(
    key="fcn",
    title="Fully Convolutional Networks for Semantic Segmentation",
    authors=("Jonathan Long", "Evan Shelhamer", "Trevor Darrell"),
    year=2015,
    venue="CVPR 2015",
    arxiv="1411.4038",
    bibkey="long2015fcn",
    innovation="turns the dense layers of a classifier into convolutions, and adds finer layers' scores on the way up",
    facts=_facts(
        # Size. All counts: 21 classes, dense deconvolutions (21 x 21 x k x k), no bias in them.
        parameters_fcn32s=(136_152_917, "parameters", _COUNTED),
        parameters_fcn16s=(134_815_994, "parameters", _COUNTED),
        parameters_fcn8s=(134_489_759, "parameters", _COUNTED),
        parameters_fcn32s_without_deconvolutions=(134_346_581, "parameters", _COUNTED),
        parameters_fcn16s_without_deconvolutions=(134_357_354, "parameters", _COUNTED),
        parameters_fcn8s_without_deconvolutions=(134_362_751, "parameters", _COUNTED),
        parameters_fc6=(102_764_544, "parameters", _COUNTED),
        parameters_fc7=(16_781_312, "parameters", _COUNTED),
        classes=(21, "classes", "20 object classes and background of PASCAL VOC"),
        gmac_500_fcn32s=(181.37, "GMAC", "computed at 500 x 500"),
        gmac_500_fcn8s=(181.53, "GMAC", "computed at 500 x 500"),
        # Layers.
        pad_conv1_1=(100, "pixels", _PROTOTXT),
        pad_other_convolutions=(1, "pixels", _PROTOTXT),
        pooling_rounding=("ceil", "", _PROTOTXT),
        kernel_fc6=(7, "pixels", _PROTOTXT),
        channels_fc6_fc7=(4096, "channels", _PROTOTXT),
        dropout_fc6_fc7=(0.5, "probability", _PROTOTXT),
        channels_pool3=(256, "channels", _PROTOTXT),
        channels_pool4=(512, "channels", _PROTOTXT),
        deconvolutions_fcn32s=(((64, 32),), "(kernel, stride) in order", _PROTOTXT),
        deconvolutions_fcn16s=(((4, 2), (32, 16)), "(kernel, stride) in order", _PROTOTXT),
        deconvolutions_fcn8s=(((4, 2), (4, 2), (16, 8)), "(kernel, stride) in order", _PROTOTXT),
        deconvolution_initialisation=("bilinear, class i to class i only", "", "released surgery.py"),
        deconvolutions_trained=(
            "frozen in the released nets; learned in the papers, without a significant difference",
            "",
            "README of the released code",
        ),
        crop_final_fcn32s=(19, "pixels", _PROTOTXT),
        crop_final_fcn16s=(27, "pixels", _PROTOTXT),
        crop_final_fcn8s=(31, "pixels", _PROTOTXT),
        crop_pool4=(5, "pixels", _PROTOTXT),
        crop_pool3=(9, "pixels", _PROTOTXT),
        # Sides of the square maps.
        sides_input_224=((53, 27, 14, 8, 18, 38), "pixels: pool3, pool4, pool5, score, fuse4, fuse3", _GEOMETRY),
        sides_input_500=((88, 44, 22, 16, 34, 70), "pixels: pool3, pool4, pool5, score, fuse4, fuse3", _GEOMETRY),
        sides_before_crop_input_224=((288, 304, 312), "pixels: 32s, 16s, 8s", _GEOMETRY),
        sides_before_crop_input_500=((544, 560, 568), "pixels: 32s, 16s, 8s", _GEOMETRY),
        # Training.
        loss=("softmax cross-entropy summed over pixels, not averaged", "", _PROTOTXT),
        ignore_label=(255, "label", _PROTOTXT),
        learning_rate_fcn32s=(1e-10, "per summed pixel loss", "released solver"),
        learning_rate_fcn16s=(1e-12, "per summed pixel loss", "released solver"),
        learning_rate_fcn8s=(1e-14, "per summed pixel loss", "released solver"),
        learning_rate_fcn8s_all_at_once=(1e-10, "per summed pixel loss", "released solver"),
        learning_rate_factor_biases=(2, "", _PROTOTXT),
        momentum=(0.99, "", "released solver"),
        weight_decay=(5e-4, "", "released solver"),
        weight_decay_factor_biases=(0, "", _PROTOTXT),
        batch_size=(1, "images", _PROTOTXT),
        iterations=(100_000, "steps", "released solver"),
        iterations_all_at_once=(300_000, "steps", "released solver"),
        all_at_once_scale_pool4=(0.01, "", _PROTOTXT),
        all_at_once_scale_pool3=(0.0001, "", _PROTOTXT),
        mean_bgr=((104.00699, 116.66877, 122.67892), "grey levels 0..255: blue, green, red", "released data layer"),
        # Results.
        voc2011val_miou_fcn32s=(63.6, "percent", _FCN_README),
        voc2011val_miou_fcn16s=(65.0, "percent", _FCN_README),
        voc2011val_miou_fcn8s=(65.5, "percent", _FCN_README),
        voc2011val_miou_fcn8s_all_at_once=(65.4, "percent", _FCN_README),
        voc2012test_miou_fcn8s=(67.2, "percent", _FCN_README),
        voc2012test_miou_fcn8s_conference=(62.2, "percent", "quoted in the results tables of DeepLab v1 and PSPNet"),
    ),
)

_UNET = Paper(
    key="unet",
    title="U-Net: Convolutional Networks for Biomedical Image Segmentation",
    authors=("Olaf Ronneberger", "Philipp Fischer", "Thomas Brox"),
    year=2015,
    venue="MICCAI 2015",
    arxiv="1505.04597",
    bibkey="ronneberger2015unet",
    innovation="a symmetric expanding path that concatenates the cropped feature maps of the contracting path",
    facts=_facts(
        parameters=(31_030_658, "parameters", _COUNTED + ", 1 channel to 2 classes, with biases, no batch norm"),
        parameters_3_to_21=(31_033_045, "parameters", _COUNTED + ", 3 channels to 21 classes"),
        parameters_batch_norm=(31_042_434, "parameters", "computed: batch norm after each 3x3, biases kept, 1 to 2"),
        convolutions=(23, "layers", "computed: 18 3x3, 4 up-convolutions 2x2, 1 1x1"),
        input_side=(572, "pixels", "Figure 1"),
        output_side=(388, "pixels", "Figure 1"),
        sides_input_572=((568, 280, 136, 64, 28, 52, 100, 196, 388), "pixels, down then up", "computed"),
        lost_border=(184, "pixels, input side minus output side", "computed"),
        valid_input_remainder=((12, 16), "input side is 12 modulo 16", "computed"),
        skip_crops=(((64, 56), (136, 104), (280, 200), (568, 392)), "pixels: from, to", "computed"),
        gmac_572=(150.43, "GMAC", "computed at 572 x 572, 1 channel to 2 classes"),
    ),
)

_SEGNET = Paper(
    key="segnet",
    title="SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation",
    authors=("Vijay Badrinarayanan", "Alex Kendall", "Roberto Cipolla"),
    year=2017,
    venue="IEEE Transactions on Pattern Analysis and Machine Intelligence",
    arxiv="1511.00561",
    bibkey="badrinarayanan2017segnet",
    innovation="a decoder that unpools with the indices of the encoder's max-pooling, so that no feature map crosses",
    facts=_facts(
        parameters=(29_449_355, "parameters", _COUNTED + ", 11 classes, biases before batch norm"),
        parameters_21_classes=(29_455_125, "parameters", _COUNTED + ", 21 classes"),
        parameters_without_biases=(29_441_419, "parameters", _COUNTED + ", 11 classes, no bias before batch norm"),
        parameters_encoder=(14_723_136, "parameters", _COUNTED + ": convolutions with biases, and batch norm"),
        convolutions=(26, "layers", _PROTOTXT),
        batch_norms=(25, "layers", _PROTOTXT),
        gmac_360x480=(106.71, "GMAC", "computed at 360 x 480, 11 classes, poolings rounding up: 23 x 30 at stage 5"),
        gmac_360x480_rounding_down=(106.29, "GMAC", "computed at 360 x 480, 11 classes: 22 x 30 at stage 5"),
        camvid_class_weights=(
            (0.2595, 0.1826, 4.5640, 0.1417, 0.9051, 0.3826, 9.6446, 1.8418, 0.6823, 6.2478, 7.3614),
            "weight of each of the 11 classes, in label order",
            _PROTOTXT,
        ),
        camvid_ignore_label=(11, "label", _PROTOTXT),
        learning_rate=(0.001, "", "released solver"),
        momentum=(0.9, "", "released solver"),
        weight_decay=(5e-4, "", "released solver"),
        batch_size=(4, "images", "released code"),
        iterations=(40_000, "steps", "released solver"),
        camvid_test_pixel_accuracy=(90.40, "percent", "results on CamVid, 11 classes, 3,500 training images"),
        camvid_test_mean_accuracy=(71.20, "percent", "results on CamVid, 11 classes, 3,500 training images"),
        camvid_test_miou=(60.10, "percent", "results on CamVid, 11 classes, 3,500 training images"),
        camvid_test_boundary_f1=(46.84, "percent", "results on CamVid, 11 classes, 3,500 training images"),
        ade20k_val_miou=(21.64, "percent", "quoted in PSPNet's ADE20K table"),
    ),
)

_PSPNET = Paper(
    key="pspnet",
    title="Pyramid Scene Parsing Network",
    authors=("Hengshuang Zhao", "Jianping Shi", "Xiaojuan Qi", "Xiaogang Wang", "Jiaya Jia"),
    year=2017,
    venue="CVPR 2017",
    arxiv="1612.01105",
    bibkey="zhao2017pspnet",
    innovation="pools the last feature map to 1x1, 2x2, 3x3 and 6x6 and gives each pixel these summaries as context",
    facts=_facts(
        parameters_resnet50=(46_592_597, "parameters", _COUNTED + ", 21 classes, 7x7 stem, no auxiliary head"),
        parameters_resnet50_auxiliary=(48_957_802, "parameters", _COUNTED + ", 21 classes, 7x7 stem, auxiliary head"),
        parameters_resnet50_deep_stem=(46_716_373, "parameters", _COUNTED + ", 21 classes, no auxiliary head"),
        parameters_pyramid_pooling=(4_198_400, "parameters", _COUNTED),
        bins=((1, 2, 3, 6), "pooled sides", "authors' PyTorch code"),
        auxiliary_weight=(0.4, "", "authors' PyTorch code; ablation on ADE20K"),
        learning_rate=(0.01, "", "authors' PyTorch code"),
        poly_power=(0.9, "", "authors' PyTorch code"),
        batch_size=(16, "images", "authors' PyTorch code"),
        ade20k_val_miou_resnet50_baseline=(35.82, "percent", "auxiliary loss ablation, without it"),
        ade20k_val_miou_resnet50_auxiliary=(37.23, "percent", "auxiliary loss ablation, weight 0.4"),
        ade20k_val_miou_mean_only=(40.07, "percent", "pyramid pooling ablation, one bin, not narrowed"),
        ade20k_val_miou_max_pooling=(40.18, "percent", "pyramid pooling ablation, four bins, maximum, not narrowed"),
        ade20k_val_miou_average_pooling=(41.07, "percent", "pyramid pooling ablation, four bins, not narrowed"),
        ade20k_val_miou_resnet50=(41.68, "percent", "pyramid pooling ablation, single scale"),
        ade20k_val_miou_resnet101=(41.96, "percent", "backbone depth ablation, single scale"),
        voc2012test_miou=(82.6, "percent", "VOC 2012 test table, without COCO"),
        voc2012test_miou_coco=(85.4, "percent", "VOC 2012 test table, with COCO"),
        cityscapes_test_miou=(78.4, "percent", "Cityscapes test table, fine annotations"),
    ),
)

_DEEPLAB_V1 = Paper(
    key="deeplab_v1",
    title="Semantic Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs",
    authors=("Liang-Chieh Chen", "George Papandreou", "Iasonas Kokkinos", "Kevin Murphy", "Alan L. Yuille"),
    year=2015,
    venue="ICLR 2015",
    arxiv="1412.7062",
    bibkey="chen2015deeplab",
    innovation="atrous convolution in place of the last two poolings, and a dense CRF that sharpens the result",
    facts=_facts(
        parameters_largefov=(20_505_429, "parameters", _COUNTED + ", 21 classes; the paper prints 20.5M"),
        parameters_7x7=(134_346_581, "parameters", _COUNTED + ", 21 classes; the paper prints 134.3M"),
        parameters_4x4=(65_140_565, "parameters", _COUNTED + ", 21 classes; the paper prints 65.1M"),
        output_stride=(8, "pixels", "network description"),
        dilation_conv5=(2, "", "network description"),
        dilation_fc6=(12, "", "LargeFOV variant"),
        channels_fc6_fc7=(1024, "channels", "LargeFOV variant"),
        learning_rate=(0.001, "", "training section; last layer 0.01"),
        batch_size=(20, "images", "training section"),
        momentum=(0.9, "", "training section"),
        weight_decay=(5e-4, "", "training section"),
        voc2012_images=((1464, 1449, 1456), "images: train, val, test", "dataset section"),
        voc2012_trainaug_images=(10_582, "images", "dataset section"),
        voc2012val_miou_largefov=(62.25, "percent", "VOC 2012 val table"),
        voc2012val_miou_largefov_crf=(67.64, "percent", "VOC 2012 val table"),
        voc2012val_miou_msc_largefov=(64.21, "percent", "VOC 2012 val table"),
        voc2012val_miou_msc_largefov_crf=(68.70, "percent", "VOC 2012 val table"),
        voc2012test_miou_largefov_crf=(70.3, "percent", "VOC 2012 test table"),
        voc2012test_miou_msc_largefov_crf=(71.6, "percent", "VOC 2012 test table"),
    ),
)

_DENSE_CRF = Paper(
    key="dense_crf",
    title="Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials",
    authors=("Philipp Krähenbühl", "Vladlen Koltun"),
    year=2011,
    venue="NIPS 2011",
    arxiv="1210.5644",
    bibkey="krahenbuhl2011crf",
    innovation="mean-field inference in a CRF that joins every pair of pixels, made fast by Gaussian filtering",
    facts=_facts(
        v1_smoothness_weight=(3, "", "DeepLab v1, cross-validation of the CRF"),
        v1_smoothness_sigma=(3, "pixels", "DeepLab v1, cross-validation of the CRF"),
        v1_appearance_weight_range=((5, 10), "", "DeepLab v1, cross-validation of the CRF"),
        v1_appearance_position_sigma_range=((50, 100), "pixels", "DeepLab v1, cross-validation of the CRF"),
        v1_appearance_colour_sigma_range=((3, 10), "grey levels 0..255", "DeepLab v1, cross-validation of the CRF"),
        v1_iterations=(10, "mean-field iterations", "DeepLab v1, cross-validation of the CRF"),
    ),
)

_DEEPLAB_V2 = Paper(
    key="deeplab_v2",
    title="DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, "
    "and Fully Connected CRFs",
    authors=("Liang-Chieh Chen", "George Papandreou", "Iasonas Kokkinos", "Kevin Murphy", "Alan L. Yuille"),
    year=2018,
    venue="IEEE Transactions on Pattern Analysis and Machine Intelligence",
    arxiv="1606.00915",
    bibkey="chen2018deeplab",
    innovation="atrous spatial pyramid pooling: parallel atrous convolutions at several rates whose scores are summed",
    facts=_facts(
        parameters_resnet101=(44_048_532, "parameters", _COUNTED + ", 21 classes, torchvision-style backbone"),
        parameters_resnet101_head=(1_548_372, "parameters", _COUNTED + ", 21 classes"),
        parameters_vgg_aspp_l=(37_877_652, "parameters", _COUNTED + ", 21 classes"),
        rates_aspp_l=((6, 12, 18, 24), "dilation", "ASPP-L"),
        rates_aspp_s=((2, 4, 8, 12), "dilation", "ASPP-S"),
        multi_scale_inputs=((0.5, 0.75, 1.0), "scale of the input; score maps joined by maximum", "multi-scale inputs"),
        batch_size=(10, "images", "training section"),
        iterations=(20_000, "steps", "training section"),
        poly_power=(0.9, "", "training section"),
        voc2012val_miou_vgg_largefov=(65.76, "percent", "VGG-16 ASPP table, before CRF"),
        voc2012val_miou_vgg_aspp_l=(68.96, "percent", "VGG-16 ASPP table, before CRF"),
        voc2012val_miou_vgg_aspp_l_crf=(71.57, "percent", "VGG-16 ASPP table, after CRF"),
        voc2012val_miou_resnet101_aspp=(76.35, "percent", "ResNet-101 table, before CRF"),
        voc2012val_miou_resnet101_aspp_crf=(77.69, "percent", "ResNet-101 table, after CRF"),
        voc2012test_miou=(79.7, "percent", "VOC 2012 test table"),
    ),
)

_DEEPLAB_V3 = Paper(
    key="deeplab_v3",
    title="Rethinking Atrous Convolution for Semantic Image Segmentation",
    authors=("Liang-Chieh Chen", "George Papandreou", "Florian Schroff", "Hartwig Adam"),
    year=2017,
    venue="arXiv",
    arxiv="1706.05587",
    bibkey="chen2017deeplabv3",
    innovation="ASPP with batch norm and image-level features, and multi-grid rates; no CRF",
    facts=_facts(
        parameters_torchvision_resnet50=(39_638_869, "parameters", _TORCHVISION + ", 21 classes, no auxiliary head"),
        parameters_torchvision_resnet101=(58_630_997, "parameters", _TORCHVISION + ", 21 classes, no auxiliary head"),
        rates=((6, 12, 18), "dilation", "ASPP at output stride 16; doubled at 8"),
        gain_rate_24=(-0.12, "points of mIoU", "ResNet-101 ASPP table, rate 24 beside 6, 12 and 18"),
        multi_grid=((1, 2, 4), "dilation factors of the three units of the last block", "ablations on ResNet-101"),
        crop_side=(513, "pixels", "training protocol"),
        batch_size=(16, "images", "training protocol"),
        learning_rate=(0.007, "", "training protocol"),
        poly_power=(0.9, "", "training protocol"),
        iterations=(30_000, "steps, for each of the two phases", "training protocol"),
        cascade_output_strides=((8, 16, 32, 64, 128, 256), "output stride", "cascaded ResNet-50 with block7"),
        cascade_voc2012val_miou=(
            (75.18, 73.88, 70.06, 59.99, 42.34, 20.29),
            "percent, in the order of cascade_output_strides",
            "cascaded ResNet-50 with block7",
        ),
        voc2012val_miou_resnet101=(77.21, "percent", "ResNet-101 ASPP table, output stride 16, single scale"),
        voc2012val_miou_resnet101_stride8=(78.51, "percent", "ResNet-101 ASPP table, evaluated at output stride 8"),
        voc2012val_miou_resnet101_multi_scale=(79.77, "percent", "ResNet-101 ASPP table, multi-scale and flip"),
        voc2012test_miou=(85.7, "percent", "VOC 2012 test table"),
        voc2012test_miou_jft=(86.9, "percent", "VOC 2012 test table, JFT pretraining"),
    ),
)

_DEEPLAB_V3PLUS = Paper(
    key="deeplab_v3plus",
    title="Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation",
    authors=("Liang-Chieh Chen", "Yukun Zhu", "George Papandreou", "Florian Schroff", "Hartwig Adam"),
    year=2018,
    venue="ECCV 2018",
    arxiv="1802.02611",
    bibkey="chen2018deeplabv3plus",
    innovation="a small decoder that joins stride-4 features to ASPP, and atrous depthwise-separable convolution",
    facts=_facts(
        low_level_channels=(48, "channels", "ablation of the 1x1 reduction"),
        low_level_channels_tried=((8, 16, 32, 48, 64), "channels", "ablation of the 1x1 reduction"),
        low_level_channels_voc2012val_miou=(
            (77.61, 77.92, 78.16, 78.21, 77.94),
            "percent, in the order of low_level_channels_tried",
            "ablation of the 1x1 reduction",
        ),
        voc2012val_miou_one_conv=(78.21, "percent", "ablation of the decoder's 3x3 convolutions"),
        voc2012val_miou_two_convs=(78.85, "percent", "ablation of the decoder's 3x3 convolutions"),
        voc2012val_miou_three_convs=(78.02, "percent", "ablation of the decoder's 3x3 convolutions"),
        gmac_resnet101_no_decoder=(81.02, "GMAC", "ResNet-101 table, output stride 16"),
        gmac_resnet101_decoder=(101.28, "GMAC", "ResNet-101 table, output stride 16"),
        voc2012val_miou_resnet101_no_decoder=(77.21, "percent", "ResNet-101 table, output stride 16"),
        voc2012val_miou_resnet101_decoder=(78.85, "percent", "ResNet-101 table, output stride 16"),
        voc2012val_miou_xception_decoder=(79.93, "percent", "Xception table"),
        voc2012val_miou_xception_separable=(79.79, "percent", "Xception table, separable ASPP and decoder"),
        gmac_xception_decoder=(89.76, "GMAC", "Xception table"),
        gmac_xception_separable=(54.17, "GMAC", "Xception table, separable ASPP and decoder"),
        voc2012test_miou=(87.8, "percent", "VOC 2012 test table"),
        voc2012test_miou_jft=(89.0, "percent", "VOC 2012 test table, JFT pretraining"),
        cityscapes_test_miou=(82.1, "percent", "Cityscapes test table"),
    ),
)

_VIT = Paper(
    key="vit",
    title="An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
    authors=(
        "Alexey Dosovitskiy",
        "Lucas Beyer",
        "Alexander Kolesnikov",
        "Dirk Weissenborn",
        "Xiaohua Zhai",
        "Thomas Unterthiner",
        "Mostafa Dehghani",
        "Matthias Minderer",
        "Georg Heigold",
        "Sylvain Gelly",
        "Jakob Uszkoreit",
        "Neil Houlsby",
    ),
    year=2021,
    venue="ICLR 2021",
    arxiv="2010.11929",
    bibkey="dosovitskiy2021vit",
    innovation="cuts the image into patches and lets every patch attend to every other, with no convolution after that",
    facts=_facts(
        parameters_base16=(86_567_656, "parameters", _TORCHVISION + ", 1000 classes"),
        parameters_base32=(88_224_232, "parameters", _TORCHVISION + ", 1000 classes"),
        parameters_large16=(304_326_632, "parameters", _TORCHVISION + ", 1000 classes"),
        parameters_base16_512_linear=(
            86_549_910,
            "parameters",
            "computed: grid of 512 x 512, 150 classes for each patch",
        ),
        tokens_224=(197, "tokens, class token included", "computed for patch side 16"),
        layers_base=(12, "layers", "computed: read from the network"),
        width_base=(768, "channels", "computed: read from the network"),
        heads_base=(12, "heads", "computed: read from the network"),
        gmac_224_base16=(17.56, "GMAC", "computed at 224 x 224"),
    ),
)

_SETR = Paper(
    key="setr",
    title="Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with Transformers",
    authors=(
        "Sixiao Zheng",
        "Jiachen Lu",
        "Hengshuang Zhao",
        "Xiatian Zhu",
        "Zekun Luo",
        "Yabiao Wang",
        "Yanwei Fu",
        "Jianfeng Feng",
        "Tao Xiang",
        "Philip H. S. Torr",
        "Li Zhang",
    ),
    year=2021,
    venue="CVPR 2021",
    arxiv="2012.15840",
    bibkey="zheng2021setr",
    innovation="puts convolutional decoders of three kinds on a ViT encoder",
    facts=_facts(
        ade20k_val_miou_naive=(48.06, "percent", "README of the released code, single scale"),
        ade20k_val_miou_pup=(48.62, "percent", "README of the released code, single scale"),
        ade20k_val_miou_mla=(48.64, "percent", "README of the released code, single scale"),
        cityscapes_val_miou_naive=(77.90, "percent", "README of the released code, 80k steps"),
        cityscapes_val_miou_pup=(79.34, "percent", "README of the released code, 80k steps"),
        cityscapes_val_miou_mla=(77.24, "percent", "README of the released code, 80k steps"),
        auxiliary_weight=(0.4, "", "released configuration"),
    ),
)

_SEGMENTER = Paper(
    key="segmenter",
    title="Segmenter: Transformer for Semantic Segmentation",
    authors=("Robin Strudel", "Ricardo Garcia", "Ivan Laptev", "Cordelia Schmid"),
    year=2021,
    venue="ICCV 2021",
    arxiv="2105.05633",
    bibkey="strudel2021segmenter",
    innovation="classifies each ViT patch, by one linear layer or by class tokens that attend to the patches",
    facts=_facts(
        # Two pretrainings: DeiT's, and that of the improved ViT weights. Compare decoders within one of them.
        ade20k_val_miou_base_deit_linear=(47.1, "percent", "README of the released code, Seg-B(DeiT)/16, single scale"),
        ade20k_val_miou_base_deit_mask=(
            48.7,
            "percent",
            "README of the released code, Seg-B(DeiT)-Mask/16, single scale",
        ),
        ade20k_val_miou_base_mask=(48.5, "percent", "README of the released code, Seg-B-Mask/16 (ViT), single scale"),
        ade20k_val_miou_large_mask=(51.8, "percent", "README of the released code, Seg-L-Mask/16, single scale"),
        cityscapes_val_miou_large_mask=(79.1, "percent", "README of the released code, Seg-L-Mask/16, single scale"),
    ),
)

_SWIN = Paper(
    key="swin",
    title="Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
    authors=(
        "Ze Liu",
        "Yutong Lin",
        "Yue Cao",
        "Han Hu",
        "Yixuan Wei",
        "Zheng Zhang",
        "Stephen Lin",
        "Baining Guo",
    ),
    year=2021,
    venue="ICCV 2021",
    arxiv="2103.14030",
    bibkey="liu2021swin",
    innovation="attention inside windows that shift from layer to layer, in a pyramid of four feature maps",
    facts=_facts(
        parameters_tiny=(28_288_354, "parameters", _TORCHVISION + ", 1000 classes"),
        parameters_small=(49_606_258, "parameters", _TORCHVISION + ", 1000 classes"),
        parameters_base=(87_768_224, "parameters", _TORCHVISION + ", 1000 classes"),
        parameters_tiny_upernet=(59_943_398, "parameters", "computed: transformers, 150 classes, auxiliary head"),
        parameters_tiny_upernet_plain=(
            59_019_600,
            "parameters",
            "computed: transformers, 150 classes, no auxiliary head",
        ),
        parameters_small_upernet=(81_261_302, "parameters", "computed: transformers, 150 classes, auxiliary head"),
        parameters_base_upernet=(121_281_764, "parameters", "computed: transformers, 150 classes, auxiliary head"),
        window=(7, "tokens", "computed: read from the network"),
        shift=(3, "tokens", "computed: read from the network"),
        drop_path_upernet=(0.3, "probability", "configuration of the released code, at the last block"),
        gmac_224_tiny=(4.49, "GMAC", "computed at 224 x 224"),
        gmac_512x2048_tiny_upernet=(944.39, "GMAC", "computed at 512 x 2048; the paper prints 945G"),
        ade20k_val_miou_tiny_upernet=(44.51, "percent", "README of the released code, single scale"),
        ade20k_val_miou_small_upernet=(47.64, "percent", "README of the released code, single scale"),
        ade20k_val_miou_base_upernet=(48.13, "percent", "README of the released code, single scale"),
    ),
)

_UPERNET = Paper(
    key="upernet",
    title="Unified Perceptual Parsing for Scene Understanding",
    authors=("Tete Xiao", "Yingcheng Liu", "Bolei Zhou", "Yuning Jiang", "Jian Sun"),
    year=2018,
    venue="ECCV 2018",
    arxiv="1807.10221",
    bibkey="xiao2018upernet",
    innovation="a feature pyramid with pyramid pooling on top, whose levels are fused into one prediction",
    facts=_facts(
        parameters_head_swin_tiny=(31_497_366, "parameters", "computed: decoder on Swin-T, 150 classes"),
        parameters_auxiliary_swin_tiny=(923_798, "parameters", "computed: auxiliary head on Swin-T, 150 classes"),
        width=(512, "channels", "computed: read from transformers' configuration"),
    ),
)

_SEGFORMER = Paper(
    key="segformer",
    title="SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers",
    authors=("Enze Xie", "Wenhai Wang", "Zhiding Yu", "Anima Anandkumar", "Jose M. Alvarez", "Ping Luo"),
    year=2021,
    venue="NeurIPS 2021",
    arxiv="2105.15203",
    bibkey="xie2021segformer",
    innovation="a hierarchical transformer without positional encoding, and a decoder made of linear layers only",
    facts=_facts(
        variants=(
            ("B0", "B1", "B2", "B3", "B4", "B5"),
            "names, the order of every tuple below",
            "names of the released configurations",
        ),
        parameters_150_classes=(
            (3_752_694, 13_715_798, 27_461_974, 47_337_814, 64_108_374, 84_708_694),
            "parameters, 150 classes",
            _COUNTED,
        ),
        parameters_backbone=(
            (3_319_392, 13_151_424, 24_196_288, 44_072_128, 60_842_688, 81_443_008),
            "parameters, without decoder",
            _COUNTED,
        ),
        parameters_published=((3.8, 13.7, 27.5, 47.3, 64.1, 84.7), "million parameters", "ADE20K table"),
        gmac_512_published=(
            (8.4, 15.9, 62.4, 79.0, 95.7, 183.3),
            "GMAC (printed as GFLOPs) at 512 x 512, B5 at 640 x 640",
            "ADE20K table",
        ),
        ade20k_val_miou=((37.4, 42.2, 46.5, 49.4, 50.3, 51.0), "percent, single scale", "ADE20K table"),
        ade20k_val_miou_multi_scale=((38.0, 43.1, 47.5, 50.0, 51.1, 51.8), "percent, multi-scale", "ADE20K table"),
        cityscapes_val_miou=((76.2, 78.5, 81.0, 81.7, 82.3, 82.4), "percent, single scale", "Cityscapes table"),
        gmac_512_b0=(8.39, "GMAC", "computed at 512 x 512, 150 classes"),
    ),
)

_VGG = Paper(
    key="vgg",
    title="Very Deep Convolutional Networks for Large-Scale Image Recognition",
    authors=("Karen Simonyan", "Andrew Zisserman"),
    year=2015,
    venue="ICLR 2015",
    arxiv="1409.1556",
    bibkey="simonyan2015vgg",
    innovation="a deep classifier made of 3x3 convolutions only, in five stages that end in a pooling",
    facts=_facts(
        parameters_vgg16=(138_357_544, "parameters", _TORCHVISION + ", 1000 classes"),
        parameters_vgg16_batch_norm=(138_365_992, "parameters", _TORCHVISION + ", 1000 classes"),
        parameters_vgg16_convolutions=(14_714_688, "parameters", _TORCHVISION + ", `features` only"),
        parameters_vgg16_classifier=(123_642_856, "parameters", _TORCHVISION + ", `classifier` only, 1000 classes"),
        convolutions_vgg16=(13, "layers", "configuration D"),
        convolutions_per_stage_vgg16=((2, 2, 3, 3, 3), "layers", "configuration D"),
        widths_vgg16=((64, 128, 256, 512, 512), "channels of the five stages", "configuration D"),
        channels_classifier_vgg16=(4096, "channels", "configuration D"),
        side_before_classifier_vgg16=(7, "pixels", "computed at 224 x 224"),
        dropout_classifier=(0.5, "probability", "computed: read from torchvision's network"),
    ),
)

_RESNET = Paper(
    key="resnet",
    title="Deep Residual Learning for Image Recognition",
    authors=("Kaiming He", "Xiangyu Zhang", "Shaoqing Ren", "Jian Sun"),
    year=2016,
    venue="CVPR 2016",
    arxiv="1512.03385",
    bibkey="he2016resnet",
    innovation="blocks that add their result to their input, so that a hundred layers still train",
    facts=_facts(
        parameters_resnet18=(11_689_512, "parameters", _TORCHVISION + ", 1000 classes"),
        parameters_resnet34=(21_797_672, "parameters", _TORCHVISION + ", 1000 classes"),
        parameters_resnet50=(25_557_032, "parameters", _TORCHVISION + ", 1000 classes"),
        parameters_resnet101=(44_549_160, "parameters", _TORCHVISION + ", 1000 classes"),
        parameters_resnet152=(60_192_808, "parameters", _TORCHVISION + ", 1000 classes"),
        parameters_resnet18_backbone=(11_176_512, "parameters", _TORCHVISION + ", without `fc`"),
        parameters_resnet34_backbone=(21_284_672, "parameters", _TORCHVISION + ", without `fc`"),
        parameters_resnet50_backbone=(23_508_032, "parameters", _TORCHVISION + ", without `fc`"),
        parameters_resnet101_backbone=(42_500_160, "parameters", _TORCHVISION + ", without `fc`"),
        parameters_resnet152_backbone=(58_143_808, "parameters", _TORCHVISION + ", without `fc`"),
        channels_basic=((64, 128, 256, 512), "channels of the four stages, ResNet-18 and -34", _TORCHVISION),
        channels_bottleneck=((256, 512, 1024, 2048), "channels of the four stages, ResNet-50 and deeper", _TORCHVISION),
        strides=((4, 8, 16, 32), "output strides of the four stages, not dilated", _TORCHVISION),
        gmac_224_resnet18=(1.814, "GMAC", _IMAGENET),
        gmac_224_resnet34=(3.664, "GMAC", _IMAGENET),
        gmac_224_resnet50=(4.089, "GMAC", _IMAGENET),
        gmac_224_resnet101=(7.801, "GMAC", _IMAGENET),
        gmac_224_resnet152=(11.514, "GMAC", _IMAGENET),
        imagenet_top1_resnet18=(69.758, "percent", _IMAGENET + ", V1"),
        imagenet_top1_resnet34=(73.314, "percent", _IMAGENET + ", V1"),
        imagenet_top1_resnet50=(76.13, "percent", _IMAGENET + ", V1"),
        imagenet_top1_resnet101=(77.374, "percent", _IMAGENET + ", V1"),
        imagenet_top1_resnet152=(78.312, "percent", _IMAGENET + ", V1"),
        parameters_fcn_resnet50=(32_957_013, "parameters", _TORCHVISION + ": fcn_resnet50, 21 classes"),
        parameters_fcn_resnet101=(51_949_141, "parameters", _TORCHVISION + ": fcn_resnet101, 21 classes"),
        fcn_resnet50_voc_miou=(60.5, "percent", "torchvision, metadata: COCO val2017 with VOC labels"),
        fcn_resnet101_voc_miou=(63.7, "percent", "torchvision, metadata: COCO val2017 with VOC labels"),
    ),
)

PAPERS: Mapping[str, Paper] = MappingProxyType(
    {
        paper.key: paper
        for paper in (
            _FCN,
            _UNET,
            _SEGNET,
            _PSPNET,
            _DEEPLAB_V1,
            _DENSE_CRF,
            _DEEPLAB_V2,
            _DEEPLAB_V3,
            _DEEPLAB_V3PLUS,
            _VIT,
            _SETR,
            _SEGMENTER,
            _SWIN,
            _UPERNET,
            _SEGFORMER,
            _VGG,
            _RESNET,
        )
    }
)
