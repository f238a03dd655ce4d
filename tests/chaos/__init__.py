"""Docker commands on three hosts during faults of all kinds, and checks that their effects are complete.

    make chaos SEED=7 FAULTS=100

A A A round runs some commands at once (`operations`), causes faults meanwhile (`faults`), ends the faults,
repeats the commands that failed, as a user would, and then checks the state (`views`, `invariants`). Commands
and faults follow from the seed alone: a round ends when Docker has reached the state that its commands ask
for (`model`), whether or not they failed at first.
"""
