"""What has nothing to do with relations: files, programs, the machine, the Hub; for everything but the model."""
