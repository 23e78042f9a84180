"""How an encoder is judged; `evaluate` alone opens the test split.

    protocol          what a protocol is: it fits on parts of the training split and returns a predictor
    evaluate          the sealed test split, the score, the record
    validate          a protocol on the validation part alone
    features          each image encoded once, kept under a key of all that decides the features
    linear_heads      many linear heads trained in one pass
    attentive_heads   the heads of attentive probes
    logistic          L2 logistic regression on principal axes
    regression        the same at the strength that held-out images prefer

Uses encoders, training and below, and `results.records`.
"""
