"""Many runs and what they say together: matrix, search, claims, forecasts, reports.

    matrix         methods x seeds x protocols: the rows, what is there already; runner: their processes, what they cost
    recorded       which cell of the matrix a record fills
    search         equal trials for every method on validation images; search_space: what is drawn
    claims         the runs that a statement needs, and its verdict
    forecast       what runs will cost, before they start
    report         tables, page and charts from records; collecting and checking results/
    pictures       what a finished run looks at and has learned, for the page; strips: of clips; plans: in worlds;
                   dense_pictures: maps beside masks, matches of patches; sheets: their parts
    run_summary    what is known of one run, for people

Uses evaluation, encoders, training and below, and `results`.
"""
