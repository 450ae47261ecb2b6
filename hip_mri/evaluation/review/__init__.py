"""The page `review.html` of a run: its images with their scores, to look at and to mark wrong labels."""
