"""What a run is: one frozen config, its overrides, identity, budgets, the reasons for its values.

    bounds      what a number of the settings may be
    schema      the frozen config, its groups, its identity
    sound       how a waveform becomes a spectrogram
    overrides   typed key.sub=value settings
    budgets     the parts of recipes that all methods share
    from_file   a config read back from a file
    reasons     why each setting has its value, read from the source

Uses nothing but the ground: errors, files, find, rng, screen.
"""
