package main

import (
	"errors"
	"time"

	"github.com/weirstore/weir/engine"
)

// What can happen. Each of these names the order, which is how the process finds the instance.
type (
	OrderPlaced struct {
		Order, Customer, Item string
		Price                 int
	}
	OrderCancelled   struct{ Order, Reason string }
	OrderFulfilled   struct{ Order string }
	PaymentRequested struct {
		Order, Customer string
		Price           int
	}
	PaymentReceived   struct{ Order string }
	PaymentTimedOut   struct{ Order string }
	PaymentRefunded   struct{ Order string }
	ShipmentRequested struct{ Order, Item string }
	Shipped           struct{ Order string }
	OutOfStock        struct{ Order string }
)

func register(e *engine.Engine) error {
	return errors.Join(
		engine.Register[OrderPlaced](e, "OrderPlaced"),
		engine.Register[OrderCancelled](e, "OrderCancelled"),
		engine.Register[OrderFulfilled](e, "OrderFulfilled"),
		engine.Register[PaymentRequested](e, "PaymentRequested"),
		engine.Register[PaymentReceived](e, "PaymentReceived"),
		engine.Register[PaymentTimedOut](e, "PaymentTimedOut"),
		engine.Register[PaymentRefunded](e, "PaymentRefunded"),
		engine.Register[ShipmentRequested](e, "ShipmentRequested"),
		engine.Register[Shipped](e, "Shipped"),
		engine.Register[OutOfStock](e, "OutOfStock"),
	)
}

// payWithin is how long a customer may take to pay.
const payWithin = time.Second

// progress is how far an order has come.
type progress struct {
	Order, Customer, Item string
	Price                 int
	Status                string
}

const (
	unpaid    = "waits for its payment"
	paid      = "is paid"
	fulfilled = "is fulfilled"
	cancelled = "is cancelled"
	refunded  = "is cancelled, and the money given back"
)

// fulfilment is the process: what has happened, and what comes next.
var fulfilment = &engine.Process[progress]{
	Name: "fulfilment",
	Key:  orderOf,
	Evolve: func(p progress, ev engine.Event) progress {
		switch data := ev.Data.(type) {
		case OrderPlaced:
			return progress{data.Order, data.Customer, data.Item, data.Price, unpaid}
		case PaymentReceived:
			if p.Status == unpaid { // else it came too late
				p.Status = paid
			}
		case PaymentTimedOut:
			p.Status = cancelled
		case Shipped:
			p.Status = fulfilled
		case OutOfStock:
			p.Status = refunded
		}
		return p
	},
	React: func(p progress, ev engine.Event) (r engine.Reaction, err error) {
		switch ev.Data.(type) {
		case OrderPlaced:
			r.Append("payment-"+p.Order, engine.New(PaymentRequested{p.Order, p.Customer, p.Price}))
			r.After(payWithin, "payment", engine.New(PaymentTimedOut{p.Order}))
		case PaymentReceived:
			if p.Status == cancelled {
				r.Append("payment-"+p.Order, engine.New(PaymentRefunded{p.Order}))
				break
			}
			r.Cancel("payment")
			r.Append("shipment-"+p.Order, engine.New(ShipmentRequested{p.Order, p.Item}))
		case PaymentTimedOut:
			r.Append("order-"+p.Order, engine.New(OrderCancelled{p.Order, "not paid in time"}))
		case Shipped:
			r.Append("order-"+p.Order, engine.New(OrderFulfilled{p.Order}))
		case OutOfStock: // the compensation
			r.Append("payment-"+p.Order, engine.New(PaymentRefunded{p.Order}))
			r.Append("order-"+p.Order, engine.New(OrderCancelled{p.Order, "out of stock"}))
		}
		return r, nil
	},
}

// orderOf names the order that an event concerns, if the process has to do with it.
func orderOf(ev engine.Event) string {
	switch data := ev.Data.(type) {
	case OrderPlaced:
		return data.Order
	case PaymentReceived:
		return data.Order
	case Shipped:
		return data.Order
	case OutOfStock:
		return data.Order
	}
	return ""
}
