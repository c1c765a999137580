"""What many tests share: models, data, trainings, and programs that draw cases at random."""
