"""Many runs and what they say together: matrix, search, claims, forecasts, reports.

    matrix         methods x seeds x protocols: rows, processes, what is there already
    recorded       which cell of the matrix a record fills
    search         equal trials for every method on validation images; search_space: what is drawn
    claims         the runs that a statement needs, and its verdict
    forecast       what runs will cost, before they start
    report         tables, page and charts from records; collecting and checking results/
    pictures       what a finished run looks at and has learned, for the page; strips: of clips; sheets: their parts;
                   dense_pictures: maps beside masks, matches of patches
    run_summary    what is known of one run, for people

Uses evaluation, encoders, training and below, and `results`.
"""
