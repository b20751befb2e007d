"""Every configuration key that vrd_d2 adds to Detectron2's."""

from detectron2.config import CfgNode as CN

from vrd_d2.data.datasets.setup import register_builtin_once

# The keys name datasets, architectures and heads: those of this project are registered with them.
from vrd_d2.modeling import registration  # noqa: F401

register_builtin_once()


def add_vrd_config(cfg: CN) -> None:
    """Add the keys of this project to a Detectron2 config, in place.

    Args:
        cfg: the result of ``detectron2.config.get_cfg()``.
    """
    # Class and predicate names: "vg150", "vg20", "vrd", "psg", "scenes", or the path of a JSON that
    # has them (a relations_json file, or {"objects": [...], "predicates": [...]}).
    cfg.MODEL.VOCABULARY = "vg150"

    # ---- The frozen CLIP model -------------------------------------------------------------
    cfg.MODEL.CLIP = CN()
    # An open_clip model name, "scenes_clip" (shipped, small), or the path of a model-config JSON.
    cfg.MODEL.CLIP.NAME = "ViT-B-32-quickgelu"
    # A tag of open_clip for that name, a local weights file, or "" for random weights.
    cfg.MODEL.CLIP.PRETRAINED = "openai"
    # Where open_clip stores downloaded weights; "" is its own default.
    cfg.MODEL.CLIP.CACHE_DIR = ""

    # ---- Another image encoder instead of CLIP's (RelCLIP, Table 4) --------------------------
    cfg.MODEL.VISUAL = CN()
    # "clip"; "timm/NAME"; or a builder of Detectron2's BACKBONE_REGISTRY, which reads the stock
    # MODEL.BACKBONE, MODEL.RESNETS, ... keys. Frozen, too. Texts are CLIP's in any case.
    cfg.MODEL.VISUAL.ENCODER = "clip"
    # Which of its maps: "res4", "p3", ... (registered), "map0", "map1", ... (timm).
    cfg.MODEL.VISUAL.FEATURE = ""
    # A weights file, "pretrained" (timm's own, downloaded) or "" for random ones. A registered
    # backbone also takes a detector's checkpoint or "scenes", the shipped detector.
    cfg.MODEL.VISUAL.WEIGHTS = ""
    # Folder in which the maps of the frozen encoder are stored in half precision, so that an epoch
    # after the first does not run it; "" stores none. Pays off where images come back unchanged.
    # UnionCLIP stores a file for each crop.
    cfg.MODEL.VISUAL.FEATURE_CACHE = ""

    # ---- The frozen detector (SGDet); its architecture is the stock R-CNN keys -------------
    cfg.MODEL.DETECTOR = CN()
    # Where training starts from: the checkpoint of a GeneralizedRCNN trained on the same classes,
    # or "scenes" (shipped). A checkpoint of the whole model, MODEL.WEIGHTS, has the detector in it.
    cfg.MODEL.DETECTOR.WEIGHTS = ""

    # ---- Text -------------------------------------------------------------------------------
    cfg.MODEL.TEXT = CN()
    # Prompts; the embeddings of several templates are averaged (RelCLIP, section 3.2).
    cfg.MODEL.TEXT.ENTITY_PROMPTS = ["a photo of a {object}."]
    cfg.MODEL.TEXT.RELATION_PROMPTS = ["a photo of a {subject} {predicate} a {object}."]
    # Word vectors of active sampling: a GloVe/word2vec text file (.txt, .txt.gz), "clip", or a
    # sentence model ("sentence", or "sentence:NAME-OR-FOLDER" of sentence-transformers).
    cfg.MODEL.TEXT.WORD_VECTORS = "clip"

    # ---- Entities, candidate pairs, sampling and ranking --------------------------------------
    cfg.MODEL.RELATION = CN()
    cfg.MODEL.RELATION.TASK = "sgdet"  # predcls, sgcls or sgdet
    # Only pairs of boxes that overlap are candidates (RelCLIP); False takes every ordered pair.
    cfg.MODEL.RELATION.REQUIRE_OVERLAP = True
    # Pairs sampled from an image in training, and the largest share of positive ones.
    cfg.MODEL.RELATION.BATCH_SIZE_PER_IMAGE = 512
    cfg.MODEL.RELATION.POSITIVE_FRACTION = 0.25
    # Detections stand for the ground-truth object that they overlap at least this much.
    cfg.MODEL.RELATION.IOU_THRESHOLD = 0.5
    # SGDet training: ground-truth boxes join the detections.
    cfg.MODEL.RELATION.ADD_GT_BOXES = True
    # SGDet: whose class and score an entity gets, the relation head's ("head") or the
    # detector's ("detector").
    cfg.MODEL.RELATION.ENTITY_CLASSES = "head"
    # What ranks the predicates of a pair: "softmax" (public protocol) or "logit" (VisualDS).
    cfg.MODEL.RELATION.RANKING = "softmax"

    # ---- The relation head --------------------------------------------------------------------
    cfg.MODEL.RELATION_HEAD = CN()
    # A name of RELATION_HEAD_REGISTRY; vrd_d2/README.md shows how to add one.
    cfg.MODEL.RELATION_HEAD.NAME = "RelCLIPHead"
    cfg.MODEL.RELATION_HEAD.DIM = 512  # width of v_i and v_ij, Dv of the paper
    cfg.MODEL.RELATION_HEAD.POSITION_DIM = 128  # width of the position embeddings p_i and p_ij
    cfg.MODEL.RELATION_HEAD.ATTENTION_LAYERS = 2
    cfg.MODEL.RELATION_HEAD.ATTENTION_HEADS = 8
    # Attention over the pairs of an image: "full" (exact), "subject" (pairs that share the
    # subject) or "axial" (layers alternate between shared subject and shared object).
    cfg.MODEL.RELATION_HEAD.ATTENTION = "full"
    # Text embeddings of the two classes join the input of a pair (beyond the paper).
    cfg.MODEL.RELATION_HEAD.CLASS_EMBEDDING = False
    cfg.MODEL.RELATION_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.RELATION_HEAD.POOLER_SAMPLING_RATIO = 2

    # ---- Losses of the relation head ------------------------------------------------------------
    cfg.MODEL.RELATION_LOSS = CN()
    cfg.MODEL.RELATION_LOSS.OBJECT_WEIGHT = 1.0
    cfg.MODEL.RELATION_LOSS.PREDICATE_WEIGHT = 1.0
    # Against the long tail (modeling/relation_heads/long_tail.py names the papers):
    # "cross_entropy", "focal" or "class_balanced".
    cfg.MODEL.RELATION_LOSS.PREDICATE = "cross_entropy"
    cfg.MODEL.RELATION_LOSS.FOCAL_GAMMA = 2.0
    cfg.MODEL.RELATION_LOSS.CLASS_BALANCED_BETA = 0.999

    # ---- Predicate frequencies: FrequencyBaseline, and the priors of a relation head -------------
    cfg.MODEL.PREDICATE_PRIOR = CN()
    # A JSON of triplet counts, {"subject|predicate|object": count}, alone or below "train"; a
    # knowledge base (.npz); "" is counted on DATASETS.TRAIN.
    cfg.MODEL.PREDICATE_PRIOR.COUNTS = ""
    # log P(predicate | classes of the pair) of the training set joins the predicate logits.
    cfg.MODEL.PREDICATE_PRIOR.FREQUENCY_BIAS = False
    # Logit adjustment at "train", at "test" or "none".
    cfg.MODEL.PREDICATE_PRIOR.LOGIT_ADJUSTMENT = "none"
    cfg.MODEL.PREDICATE_PRIOR.LOGIT_ADJUSTMENT_TAU = 1.0

    # ---- Relational Contrastive Learning (RelCLIP, section 3.3) ------------------------------
    cfg.MODEL.RCL = CN()
    # Levels of contrast: "subject-predicate", "predicate-object", "predicate" (unary),
    # "subject-predicate-object" (triple); an empty list turns RCL off.
    cfg.MODEL.RCL.LEVELS = ["subject-predicate", "predicate-object"]
    cfg.MODEL.RCL.LOSS_WEIGHT = 1.0
    cfg.MODEL.RCL.TEMPERATURE = 0.07  # tau of Eq. (4)
    cfg.MODEL.RCL.GAMMA = 0.5  # share of the visual-to-text loss, Eq. (5)
    # Semantic-aware active sampling: negatives are the samples with eta <= similarity <= epsilon.
    cfg.MODEL.RCL.SAMPLING = True  # False: every other sample, weight 1
    cfg.MODEL.RCL.EPSILON = 0.7
    cfg.MODEL.RCL.ETA = 0.0
    cfg.MODEL.RCL.WEIGHTED = True  # negatives weigh as much as they are similar
    # Past samples of each level that are further negatives (the paper's future work); 0 is none.
    cfg.MODEL.RCL.MEMORY_BANK = 0

    # ---- Distant supervision (RelCLIP, section 3.4) ------------------------------------------
    cfg.MODEL.DISTANT = CN()
    # A base of triplets, made by datasets/prepare_knowledge_base.py; "" is none.
    cfg.MODEL.DISTANT.KNOWLEDGE_BASE = ""
    # Triplets with lower counts are no candidates.
    cfg.MODEL.DISTANT.MIN_COUNT = 1
    # Folder of weights of the candidates in each image, made by tools/score_candidates.py
    # (KB+EXT, or EM rounds); "" gives all candidates of a pair the same weight (KB).
    cfg.MODEL.DISTANT.WEIGHTS = ""
    # At inference, any model: only candidates of the base get a score.
    cfg.MODEL.DISTANT.RESTRICT = False

    # ---- UnionCLIP: contrastive fine-tuning on union crops (section 3) ------------------------
    # It also reads MODEL.CLIP, TEXT.*_PROMPTS and, of RELATION, TASK, REQUIRE_OVERLAP, RANKING and
    # the sampling keys, which count distinct union boxes; and VISUAL.FEATURE_CACHE.
    cfg.MODEL.UNION_CLIP = CN()
    # "mlp" (a 2-layer MLP on each frozen encoder), "attention" (the last blocks, final norms and
    # projections are trained) or "none" (zero-shot CLIP, nothing to train).
    cfg.MODEL.UNION_CLIP.FINETUNE = "mlp"
    # Last blocks of both towers that "attention" trains; of a ResNet, the attention pool is one
    # and each stage is one.
    cfg.MODEL.UNION_CLIP.TRAINED_BLOCKS = 2
    # The MLP is added to its input and starts at zero; False: the MLP alone, from random weights.
    cfg.MODEL.UNION_CLIP.MLP_RESIDUAL = True
    # How a union box becomes a square: "squash" stretches it, "center" cuts off its ends.
    cfg.MODEL.UNION_CLIP.CROP = "squash"
    # The text of regions without a relation.
    cfg.MODEL.UNION_CLIP.NULL_TEXT = "null relation"
    # Crops and texts that are encoded at a time: bounds the memory, changes no result.
    cfg.MODEL.UNION_CLIP.CROP_CHUNK = 64
    cfg.MODEL.UNION_CLIP.TEXT_CHUNK = 1024
    # Main memory for the outputs of the frozen part of the text tower on training texts, in GiB.
    cfg.MODEL.UNION_CLIP.TEXT_CACHE_GB = 4.0
    # Folder of a memory-mapped file with the texts of all class pairs seen in inference; "" holds
    # them in memory.
    cfg.MODEL.UNION_CLIP.TEXT_BANK = ""

    # ---- Data --------------------------------------------------------------------------------
    # Further datasets: rows of [name, relations_json file, image folder].
    cfg.DATASETS.REGISTER = []
    # An image whose file is missing: "error", "skip" (reported by name) or "keep" (not looked for:
    # for what uses the annotation alone).
    cfg.DATASETS.MISSING_IMAGES = "error"
    # Those of DATASETS.TRAIN whose relations are not read: MODEL.DISTANT labels their pairs. Others
    # beside them are trained on with their labels (semi-supervised).
    cfg.DATASETS.DISTANT = ()
    # A text file of images to leave out, a file name a line, as `tools/dataset.py check
    # --bad-list` writes it; "" leaves out none.
    cfg.DATASETS.EXCLUDE = ""
    # Given boxes: rows of [dataset name, COCO results file]. They replace the
    # detector (SGDet; none is built where every test set has a row), and at test time for the
    # annotated boxes (PredCls, SGCls).
    cfg.DATASETS.DETECTIONS = []

    # ---- Evaluation --------------------------------------------------------------------------
    cfg.TEST.RELATION = CN()
    cfg.TEST.RELATION.PROTOCOL = "sgb"
    # Whether annotated pairs alone are ranked where boxes are given (PredCls, SGCls); None as the
    # protocol does: vrd ranks them (Lu et al.), the others all pairs.
    cfg.TEST.RELATION.ANNOTATED_PAIRS = None
    cfg.TEST.RELATION.WRITE_PREDICTIONS = False
    # Best checkpoint: metric to watch ("relations/R@50", say); "" saves none.
    cfg.TEST.BEST_METRIC = ""

    # ---- Trainer -----------------------------------------------------------------------------
    # "SGD" is Detectron2's own (the papers'); "AdamW" learns small datasets in fewer iterations.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Precision of SOLVER.AMP: "float16" (Detectron2's own, CUDA only) or "bfloat16" (CUDA and CPU,
    # relation models).
    cfg.SOLVER.AMP.PRECISION = "float16"
