"""Work: what a job is, how it is queued, leased, run, ended, and looked after."""
