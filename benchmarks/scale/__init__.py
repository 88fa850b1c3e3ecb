"""Does a long history slow anything down? The recorder and the performance report, at 10⁵ and at 10⁷ stored predictions."""
