package actor_test

import (
	"context"
	"fmt"

	"github.com/weirstore/weir/actor"
)

// counter is owned by its actor: no lock.
type counter struct{ sum int }

func (c *counter) Receive(batch []int) {
	for _, n := range batch {
		c.sum += n
	}
}

func Example() {
	group := actor.NewGroup()
	sys := actor.NewSystem(actor.Config[int]{
		Group:   group,
		Kind:    "counter",
		Discard: func(n int, err error) { fmt.Println(n, "was not handled:", err) },
	})
	c := new(counter)
	a := sys.New("visitors", c)

	ctx := context.Background()
	for n := range 10 {
		if err := a.Send(ctx, n); err != nil {
			fmt.Println(err)
		}
	}
	<-sys.Drain() // finish what was accepted
	fmt.Println("sum", c.sum)
	fmt.Println(a.Send(ctx, 1))
	fmt.Println(group.Wait(ctx)) // no goroutine is left
	// Output:
	// sum 45
	// actor: stopped
	// <nil>
}
