"""What questions a result: other explanations of the score, and how it depends on the number of patients."""
