"""One life each: a connection is an actor with a mailbox, under a supervisor."""
