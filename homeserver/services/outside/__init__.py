"""Users of ours and rooms that this server isn't in: who may invite them, what was begun there."""
