"""The pages of the gallery: pictures, explanations, and the gallery that shows them."""
