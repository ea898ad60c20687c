"""Steps that decide which traces are kept, and the funnel that counts them. Imports `sft.teacher` and what it may."""
