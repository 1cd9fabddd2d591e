package compile

import (
	"cmp"
	"maps"
	"slices"

	"weft.dev/weft/proxy/wire"
)

// assign returns the given numbers and the lowest free ones for those keys of wanted that have none
// yet, in wanted's order. When no number is left the remaining keys go without.
//
// A number that is out of range or given twice would send connections to the wrong Service, so such an
// entry is dropped and its destination is numbered anew.
func assign(given Numbers, wanted []NumberKey) Numbers {
	numbers := make(Numbers, len(given)+len(wanted))
	var taken [wire.MaxNumber + 1]bool
	for _, key := range slices.SortedFunc(maps.Keys(given), compareNumberKeys) {
		number := given[key]
		if number < wire.MinNumber || taken[number] {
			continue
		}
		taken[number] = true
		numbers[key] = number
	}
	next := wire.MinNumber
	for _, key := range wanted {
		if _, ok := numbers[key]; ok {
			continue
		}
		for next <= wire.MaxNumber && taken[next] {
			next++
		}
		if next > wire.MaxNumber {
			break
		}
		taken[next] = true
		numbers[key] = uint16(next)
	}
	return numbers
}

func compareNumberKeys(a, b NumberKey) int {
	return cmp.Or(cmp.Compare(a.UID, b.UID), cmp.Compare(a.Port, b.Port))
}
