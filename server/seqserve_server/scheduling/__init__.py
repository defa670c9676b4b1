"""What runs next, and how far: continuous batching.

    work          what the engine asks for: rows of a model, by when
    scheduler     the thin loop: lanes (threads), and who is told what became of their work
    admission     whether work is let in; `caution` learns how long waits are
    offline       which rows of a set that is known beforehand run together: a function
    offline_lanes   lanes for such sets, for those who have no callers
    batcher       one model: pool + row store + graph
    pool          which rows wait, are in play, run          pure: no threads, no clock
    policy        which rows run together, and how far       a function
    cost          what runs cost, fitted and kept current
    row_store     the numbers of the rows in play
    warmup        the turns that the costs are first fitted to
    stats         counters
    simulation    the same pool and admission under a virtual clock
    virtual_server  transport, lanes, interpreter and cores for it

Nothing here knows gRPC, and only the row store, the batcher and the offline lanes know numbers.
"""
