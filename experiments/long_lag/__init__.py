"""The long-lag tasks of Hochreiter & Schmidhuber (1997), over many seeds, LSTM beside vanilla RNN."""
