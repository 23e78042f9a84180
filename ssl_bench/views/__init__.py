"""What an objective looks at: crops, colours, blur, masks, for a whole batch on its device.

    augment   crops, flips, colour, blur, with numbers per image
    actions   what was done to an image's colours, as a vector
    plain     the view of evaluation: resized, centre cut, normalised
    crops     the pairs and multi-crops that most methods share
    masks     which patches a student sees, loses, or has to predict; masks3d: the same of clips
    masks_grids  masks of images' methods on the grid of any kind of item
    official_masks  I-JEPA's sampler as published, bit for bit
    sound     what leaves a sound the same: louder, later, with another one behind it; masks_sound: masks made for it
    clouds    scales, turns and jitter of points; masks_points: runs of neighbouring groups
    corrupt   the fifteen common corruptions

Uses models and below.
"""
