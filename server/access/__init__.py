"""Who may call and how much; knows no protocol, so that every door asks the same gate."""
