"""Files of an installation besides the programs: units, manual pages, completion, rules; where each goes."""
