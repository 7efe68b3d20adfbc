"""What a run says about itself: numbers and pictures on disk, a progress bar, a report."""
