"""Speed of deep and compact models on the device present, and its share of the device's peak."""
