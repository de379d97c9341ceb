"""Features of a teacher as a student's prior."""
