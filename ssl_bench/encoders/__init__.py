"""From a name (a run, timm, a published file) to a frozen network that protocols can use; export.

    resolve      a name -> an encoder: a run, random:, pixels, timm:, hf:, hub:, file:
    encoder      what an encoder is: the network and how its input enters it
    from_run     what a finished run left
    references   the rows `random` and `pixels`
    published    timm, Hugging Face, torch.hub and published files; layouts: their keys; networks: those that are not
                 the shared transformer; known: all of them as a list
    film_layouts published networks of clips as the shared transformer
    export       a run as a plain timm model, with its card

Uses training and below.
"""
