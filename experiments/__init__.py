"""One study for each claim of the lecture: a question, a command, a figure and a measured table."""
