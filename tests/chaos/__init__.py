"""Docker commands on three hosts while everything under them fails: afterwards all must be in order again.

    make chaos SEED=7 FAULTS=100

A round types some commands at once (`operations`), strikes amid them (`faults`), puts back what is missing,
types again what was refused, as a user would, and then looks at everything (`views`, `invariants`). What is
typed and what strikes follows from the seed alone: a round ends when Docker has what its commands were for
(`model`), whatever has become of them at first.
"""
