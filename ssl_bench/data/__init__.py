"""From a name or files to a store, a sealed split and items: readers, labels, splits, decoding.

    registry     a data set's name -> its source
    catalogue    sets known by name (catalogue.toml); embedded/: those in the package
    folder, parquet, webdataset, huggingface   the kinds of source; source: what they have in common
    factors, movingphotos, cues   sets made here, whose every factor is known: images, clips, clips with a long past
    world        what a world with actions and goals is; worlds/: one file each
    rollouts     sets of trajectories made in a world, and the sealed starts and goals of planning
    splits       which file or folder is which split; split_lists: text files that list them (UCF101, HMDB51)
    folds        a set whose test split is every official fold in turn
    labels       what may be a label
    items        what an item is, the seam for kinds; images: the kind `image`, its bytes -> uint8 pixels;
                 clips: the kind `clip`, films: a film's frames -> pictures; trajectories: the kind `trajectory`;
                 pixels: the rules for modes and ranges beyond 8 bits
    sounds       the kind `sound`; mel: its log-mel spectrograms
    texts        the kind `text`: pairs of texts; expressions: a set of them made here, in words and as code
    captioned    the kind `captioned`: images with questions; captions: a set of them made here
    points       the kind `points`; shapes: files of points and of surfaces
    digest       bytes of a set's files, so that one rewritten with its old size and time is noticed
    groups       images that belong together, which no cut of a split may part
    masks        a class for every pixel, kept beside the pixels; mask_files: what the values of mask files mean
    store        images decoded or packed once, for all jobs; store_build: how; encoded_store: reading packed ones
    canonical    order, labels, test split, fingerprint, duplicates
    twins        the same pixels in two sets
    summary      what was understood of a set, in words; a sheet of its images
    dataset      training and validation part, and the sealed test split
    imagenet_subsets   ImageNet's official 1 % and 10 %
    places       where stores and named sets lie

Uses config.
"""
