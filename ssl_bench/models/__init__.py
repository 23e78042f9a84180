"""The shared transformer, its tokenizer and positions, predictors, projection heads.

    vit          the one backbone of every method; timm_parts: its pieces from timm, cheap to import
    block        timm's block, and its bf16 pass on a CPU written out
    tokenizer    items -> tokens; groups: points as groups of neighbours, a small PointNet
    answers      from an image and a question to an answer's embedding
    texts        rows of tokens of texts, views in them, what comes next
    flow         correlations of two maps of tokens, warping, a small estimator of motion
    positions    fixed position embeddings; rotary: those that turn queries and keys in every block
    pointdecoder the decoder of points, Chamfer distance
    latent_decoder  tokens at hidden places from those at visible ones, of grids and of points
    targets      what a teacher's blocks become: data2vec's average
    predictor    the JEPA predictor
    dynamics     from a frame's latent and an action to the next one's
    hierarchy    a second level over dynamics, that moves by macro-actions
    slots        from the slots of some objects to those that are hidden
    policy       from a frame and a goal to a chunk of actions
    thinker      a predictor of frames to come, guided by a slow look at the whole past
    kept         what a finished run leaves beside its encoder: dynamics, or a predictor that is told actions
    projection   projection heads
    assignment   teacher logits -> targets: centring, Sinkhorn-Knopp

Uses parallel and config.
"""
