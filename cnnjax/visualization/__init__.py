"""What a network learned: objectives, rendering, attribution, and the gallery of pages."""
