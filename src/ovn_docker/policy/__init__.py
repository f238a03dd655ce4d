"""The language of groups and rules: who may talk to whom on a network. Pure."""
