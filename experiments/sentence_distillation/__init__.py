"""A Transformer's layers and answers into an LSTM, on sentences."""
