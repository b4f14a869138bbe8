"""What stands beside training: conversion, drawn data, plans for TPUs."""
