"""The page's plotly figures, their colours, and the data that they draw."""
