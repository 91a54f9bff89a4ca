"""Workers that come to nothing; in a module of their own, which a new process loads quickly."""


def cannot_start(_spec, rank, _folder, pipe):
    pipe.send(f"process {rank}: out of memory")
