(component (core module (func (param i32) (local {{repeat 20000: i64 }})
  {{repeat 60000: (if (local.get 0) (then (local.set 7 (i64.const {n}))))}})))
