"""Pages that stand alone: their style, pieces of HTML with Arabic in its own direction, and charts as inline SVG."""
