module github.com/weirstore/weir/verify

go 1.26.0

replace github.com/weirstore/weir => ../

require (
	github.com/anishathalye/porcupine v1.3.1
	github.com/weirstore/weir v0.0.0
	go.uber.org/goleak v1.3.0
	pgregory.net/rapid v1.3.0
)

require golang.org/x/sync v0.24.0 // indirect
