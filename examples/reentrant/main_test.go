package main

import (
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOutput(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	const want = `correlation 1-placed
  order-1@1    OrderPlaced       1-placed             began it
  payment-1@1  PaymentRequested  1-payment-requested  caused by 1-placed
  payment-1@2  PaymentReceived   1-payment-received   caused by 1-payment-requested
  order-1@2    OrderShipped      1-shipped            caused by 1-payment-received
correlation 2-placed
  order-2@1    OrderPlaced       2-placed             began it
  payment-2@1  PaymentRequested  2-payment-requested  caused by 2-placed
  payment-2@2  PaymentReceived   2-payment-received   caused by 2-payment-requested
  order-2@2    OrderShipped      2-shipped            caused by 2-payment-received
correlation 3-placed
  order-3@1    OrderPlaced       3-placed             began it
  payment-3@1  PaymentRequested  3-payment-requested  caused by 3-placed
  payment-3@2  PaymentReceived   3-payment-received   caused by 3-payment-requested
  order-3@2    OrderShipped      3-shipped            caused by 3-payment-received
`
	if out.String() != want {
		t.Errorf("got:\n%swant:\n%s", out.String(), want)
	}
}
