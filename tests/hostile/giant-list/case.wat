;; What {{…}} stands for is in tests/hostile/case.rs.
(component
  {{types}}
  (core module $main
    {{memory}}
    (func $fill (local $at i32)
      (local.set $at (i32.const 65536))
      (loop
        (i64.store (local.get $at) (i64.const 0x1000000000000))
        (i64.store offset=8 (local.get $at) (i64.const 0x1000000000000))
        (local.set $at (i32.add (local.get $at) (i32.const 16)))
        (br_if 0 (i32.lt_u (local.get $at) (i32.const 98304)))))
    (func (export "handle") (param i32) (result i32)
      (i32.store8 (i32.const 1024) (i32.const 1))
      (call $fill) (i32.store (i32.const 1064) (i32.const 65536)) (i32.store (i32.const 1068) (i32.const 2048))
      (i32.const 1024))
  )
  (core instance $m (instantiate $main))
  {{guest}})
