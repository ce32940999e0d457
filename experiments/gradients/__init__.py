"""Where the gradient goes over a thousand steps: LSTM beside vanilla RNN, both sides of the story."""
