"""How an encoder is judged; `evaluate` alone opens the test split.

    protocol          what a protocol is: it fits on parts of the training split and returns a predictor
    evaluate          the sealed test split, the record
    folds             the same for every official fold of a set, and the mean over folds
    scorable          whether a set has what a protocol is scored by
    answers           what a protocol predicts before the labels are read, and its score after
    seal              what is shut meanwhile; a process of its own for a scorer that is not the harness's
    scorers           the harness's scorers; map_scorers: those of label maps; world_scorers: those that do again what
                      was done in a world; text_scorers: those that hold texts against the true ones
    latents           frames -> latents and what actions make of them: learned by the run, or fitted on frozen features
    planner           the cross-entropy method, and acting by it in a world
    actors            who acts by an encoder: a search by its dynamics, on one level or two, or its own policy
    validate          a protocol on the validation part alone
    features          each image encoded once, kept under a key of all that decides the features
    linear_heads      many linear heads trained in one pass
    attentive_heads   the heads of attentive probes
    tuned             what fine-tuning trains: the encoder, or the kept predictor; their rates
    dense_heads       heads on patch tokens that answer with label maps; patch_maps: patches and their pixels
    patch_tokens      of which layers, with what beside them, at which size of input patch tokens are read
    matches           views with a known transformation, and the nearest patches between them
    logistic          L2 logistic regression on principal axes
    svm               the linear SVM of clouds of points
    regression        the same at the strength that held-out images prefer

Uses encoders, training and below, and `results.records`.
"""
