"""Steps that choose which traces are kept, and the funnel that counts them. May import `sft.teacher`."""
