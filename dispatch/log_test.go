package dispatch_test

import (
	"slices"
	"testing"

	"github.com/weirstore/weir/dispatch"
)

func TestKindSet(t *testing.T) {
	tests := []struct {
		name  string
		set   *dispatch.KindSet
		has   []dispatch.Kind
		not   []dispatch.Kind
		kinds []dispatch.Kind
	}{
		{"nil holds every kind", nil, []dispatch.Kind{1, 2, 63, 64, 1000}, nil, nil},
		{"an empty set holds none", dispatch.NewKindSet(), nil, []dispatch.Kind{0, 1, 64}, nil},
		{"one kind", dispatch.NewKindSet(5), []dispatch.Kind{5}, []dispatch.Kind{4, 6, 69}, []dispatch.Kind{5}},
		{"kinds beyond one word", dispatch.NewKindSet(64, 1, 200), []dispatch.Kind{1, 64, 200}, []dispatch.Kind{0, 2, 65, 136, 201, 9999}, []dispatch.Kind{64, 1, 200}},
		{"a kind given twice is there once", dispatch.NewKindSet(3, 3, 3), []dispatch.Kind{3}, nil, []dispatch.Kind{3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, k := range tt.has {
				if !tt.set.Has(k) {
					t.Errorf("Has(%d) is false", k)
				}
			}
			for _, k := range tt.not {
				if tt.set.Has(k) {
					t.Errorf("Has(%d) is true", k)
				}
			}
			if !slices.Equal(tt.set.Kinds(), tt.kinds) {
				t.Errorf("Kinds is %v, want %v", tt.set.Kinds(), tt.kinds)
			}
		})
	}
}
