"""What a network is, without training it: costs, data flow, layers, sliding windows."""
