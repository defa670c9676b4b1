"""Batch scoring: files in, files out, every row once.

    shards      blocks of the input, cut by content (`seqserve_data.stream`), and their parts
    engines/    who answers them: this process, a service, a Ray cluster; the same bits each
    rows        answers beside ids and errors, as columns; `forms` makes files of them
    output      where everything of a job lies; in `storage/`, whole or not at all
    ledger      what is done: a job that was killed goes on; `identity` is what it was begun as
    pipeline    takes blocks from the input, through an engine, into the output
    joining     makes one file of the parts
    input_files, input_places   what of the input has changed, and where outputs may not lie

`job` holds them together, whoever computes. `commands` is the command line, with `flags` and their
`choices`; `answering` finds the engine that they mean. `progress` is what it shows, `report` what
it says of the `summary` in the end, and `interruption` what becomes of it at Ctrl-C. `api` scores
what is in memory already.
"""
