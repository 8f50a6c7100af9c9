"""What the embedded base is pretrained on: English commands, copying, dates, and text with a fitting licence."""
