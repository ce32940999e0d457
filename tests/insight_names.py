"""Names of columns and series that would run if they were taken for HTML, or for Plotly's templates."""

TARGET = "<img src=x onerror=hacked(1)>"
PAST = "</script><script>hacked(2)</script>"
SERIES = "<b>a</b>%{y}"
