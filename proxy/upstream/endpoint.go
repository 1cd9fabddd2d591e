package upstream

type endpoint struct{}
